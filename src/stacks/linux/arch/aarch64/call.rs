//! The calls of functions, and what they reach.

use std::ops::Range;

use super::instruction::{Instruction, read};
use crate::stacks::linux::memory;

/// The register that the entries of a procedure linkage table, and veneers, use.
const SCRATCH: u8 = 16;
/// The most instructions of such an entry: with a landing pad, and a `nop`.
const MAX_STUB: u64 = 6;

/// Returns whether the instruction before an address is a call.
pub(in crate::stacks::linux) fn is_return_address(address: u64) -> bool {
    let call = address.checked_sub(Instruction::SIZE).and_then(instruction);
    matches!(call, Some(Instruction::Call(_) | Instruction::IndirectCall))
}

/// Returns the function that the instruction before an address calls; `None` if it is not a call, or
/// calls whatever a register points to.
pub(in crate::stacks::linux) fn function_called(address: u64) -> Option<u64> {
    let call = address.checked_sub(Instruction::SIZE)?;
    match instruction(call)? {
        Instruction::Call(distance) => Some(function_at(branch(call, distance))),
        _ => None,
    }
}

/// Returns the functions that a function calls last, by a jump, because it returns what they return.
pub(in crate::stacks::linux) fn functions_jumped_to(code: Range<u64>) -> Vec<u64> {
    let targets = read(code.clone()).filter_map(|(address, instruction)| match instruction {
        Instruction::Jump(distance) => Some(branch(address, distance)),
        _ => None,
    });
    targets.filter(|target| !code.contains(target)).map(function_at).collect()
}

/// Returns the return addresses of the calls of a function in some code.
pub(in crate::stacks::linux) fn calls_of(function: u64, code: Range<u64>) -> Vec<u64> {
    let calls = read(code).filter(|(address, instruction)| match instruction {
        Instruction::Call(distance) => function_at(branch(*address, *distance)) == function,
        _ => false,
    });
    calls.map(|(address, _)| address + Instruction::SIZE).collect()
}

/// Returns the function that a branch to an address reaches: beyond an entry of the procedure linkage
/// table, or beyond a veneer, which the linker adds on the way to a distant function.
fn function_at(address: u64) -> u64 {
    stub_target(address).unwrap_or(address)
}

fn stub_target(address: u64) -> Option<u64> {
    let end = address.checked_add(MAX_STUB * Instruction::SIZE)?;
    let is_pad = |code: &(u64, Instruction)| code.1 == Instruction::Hint;
    let code: Vec<_> = read(address..end).skip_while(is_pad).collect();
    match code[..] {
        [(adrp, Instruction::Page { to: SCRATCH, distance }), (_, second), ref rest @ ..]
            if rest.iter().any(|(_, code)| *code == Instruction::IndirectJump) =>
        {
            let page = branch(adrp & !0xfff, distance);
            match second {
                Instruction::Load { from: SCRATCH, offset, .. } => {
                    memory::array(page.checked_add(offset)?).map(u64::from_le_bytes)
                }
                Instruction::Add { to: SCRATCH, from: SCRATCH, value } => page.checked_add(value),
                _ => None,
            }
        }
        _ => None,
    }
}

fn branch(address: u64, distance: i64) -> u64 {
    address.wrapping_add_signed(distance)
}

fn instruction(address: u64) -> Option<Instruction> {
    let is_aligned = address % Instruction::SIZE == 0;
    let end = address.checked_add(Instruction::SIZE).filter(|_| is_aligned)?;
    read(address..end).next().map(|(_, instruction)| instruction)
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOP: u32 = 0xd503_201f;
    const BTI_C: u32 = 0xd503_245f;
    const ADD_X16_X16: u32 = 0x9100_0210;
    const LDR_X17_X16: u32 = 0xf940_0211;
    const BR_X16: u32 = 0xd61f_0200;
    const BR_X17: u32 = 0xd61f_0220;

    /// A page of code, which begins with a word for the address of a function.
    #[repr(C, align(4096))]
    struct Page([u32; 1024]);

    impl Page {
        fn new() -> Box<Self> {
            Box::new(Self([NOP; 1024]))
        }

        fn address(&self, index: usize) -> u64 {
            self.0.as_ptr().addr() as u64 + index as u64 * 4
        }

        fn code(&self) -> Range<u64> {
            self.address(0)..self.address(1024)
        }

        fn put(&mut self, index: usize, code: &[u32]) {
            self.0[index..index + code.len()].copy_from_slice(code);
        }

        /// Puts a branch, by its opcode, from one instruction to another.
        fn put_branch(&mut self, opcode: u32, from: usize, to: usize) {
            let distance = to as u32;
            self.0[from] = opcode | distance.wrapping_sub(from as u32) & 0x03ff_ffff;
        }
    }

    const BL: u32 = 0x9400_0000;
    const B: u32 = 0x1400_0000;
    /// `adrp x16` of the page that it is on.
    const ADRP_X16: u32 = 0x9000_0010;

    #[test]
    fn a_return_address_follows_a_call() {
        let mut page = Page::new();
        page.put_branch(BL, 100, 200);
        page.put(101, &[0xd63f_0100, 0xd73f_0909]);
        let [of_bl, of_blr, of_blraa, other] = [101, 102, 103, 104].map(|at| page.address(at));
        assert!([of_bl, of_blr, of_blraa].into_iter().all(is_return_address));
        assert!(!is_return_address(other));
        assert_eq!(function_called(of_bl), Some(page.address(200)));
        assert_eq!([of_blr, of_blraa, other].map(function_called), [None; 3]);
        assert!((1..4).all(|off| !is_return_address(of_bl + off)), "not aligned");
        assert!(!is_return_address(0) && !is_return_address(8), "not mapped");
    }

    #[test]
    fn calls_are_found_through_stubs() {
        const FUNCTION: usize = 900;
        let mut page = Page::new();
        let address = page.address(FUNCTION);
        page.put(0, &[address as u32, (address >> 32) as u32]);
        // An entry of the linkage table with a landing pad, and a veneer.
        page.put(500, &[BTI_C, ADRP_X16, LDR_X17_X16, ADD_X16_X16, BR_X17]);
        let offset = FUNCTION as u32 * 4;
        page.put(510, &[ADRP_X16, ADD_X16_X16 | offset << 10, BR_X16]);
        for (from, to) in [(100, FUNCTION), (110, 500), (120, 501), (130, 510), (140, FUNCTION + 1)]
        {
            page.put_branch(BL, from, to);
        }
        page.put_branch(B, 150, FUNCTION);
        let calls = [101, 111, 121, 131].map(|at| page.address(at));
        assert_eq!(calls_of(address, page.code()), calls);
    }

    #[test]
    fn a_jump_to_a_function_leaves_the_code() {
        const FUNCTION: usize = 900;
        let mut page = Page::new();
        page.put(500, &[ADRP_X16, ADD_X16_X16 | (FUNCTION as u32 * 4) << 10, BR_X16]);
        page.put_branch(B, 100, FUNCTION);
        page.put_branch(B, 200, 500);
        page.put_branch(BL, 300, FUNCTION);
        let function = page.address(FUNCTION);
        let jumped_to = |from, to| functions_jumped_to(page.address(from)..page.address(to));
        assert_eq!(jumped_to(90, 110), [function]);
        assert_eq!(jumped_to(190, 210), [function], "through a stub");
        assert!(jumped_to(290, 310).is_empty(), "a call is not a jump");
        assert!(jumped_to(90, 1000).is_empty(), "a loop");
    }

    proptest! {
        #[test]
        fn property_any_code_has_calls_or_none(code: Vec<u32>, function: u32) {
            let start = code.as_ptr().addr() as u64;
            let range = start..start + code.len() as u64 * 4;
            let function = start + u64::from(function % 64) * 4;
            for call in calls_of(function, range.clone()) {
                prop_assert!(is_return_address(call));
            }
            let _ = functions_jumped_to(range.clone());
            for address in range {
                let _ = function_called(address);
            }
        }
    }
}
