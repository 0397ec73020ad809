//! Finds the caller of a function that has no unwinding tables, such as one of musl, by following
//! its code to the instruction that returns.
//!
//! Not by a search for a return address on the stack: a word that an earlier call has left there
//! would pass for one, and the calls in between would be missing without notice. At an instruction,
//! the return address is at one place, whichever path the function takes from there.

use std::collections::{HashSet, VecDeque};

use super::instruction::{Instruction, MAX_LENGTH, RSP};
use crate::os;
use crate::stacks::linux::arch;
use crate::stacks::snapshot::{Registers, StackSnapshot};

/// More instructions than most functions of a C library have.
const MAX_INSTRUCTIONS: usize = 4_096;
/// The instructions between the outermost call of a thread, and where the thread ends.
const MAX_EXIT_INSTRUCTIONS: usize = 8;

/// `ret`, the only kind of return that functions of C have.
const RET: u16 = 0xc3;
/// rbp, by its encoding.
const RBP: u8 = 5;
/// The DWARF numbers of the first registers, by their encoding. From r8 on they are the same.
const DWARF_NUMBERS: [u16; 8] = [0, 2, 1, 3, 7, 6, 4, 5];

/// What the processor does next.
enum Next {
    /// The next instruction.
    Continue,
    Jump(u64),
    /// Either of the two.
    Branch(u64),
}

/// The registers before an instruction.
#[derive(Clone, Copy)]
struct State(Registers);

/// Returns the registers before each instruction that may return from a function. The stack pointer
/// is then the address of the return address. More than one address means that a path was followed
/// that is never taken, behind a call that does not return.
pub(in crate::stacks::linux) fn returns(
    registers: &Registers,
    stack: &StackSnapshot,
) -> Vec<Registers> {
    let mut returns: Vec<Registers> = Vec::new();
    explore(*registers, stack, |state, instruction| {
        let sp = state.0.get(arch::SP);
        let is_new = || returns.iter().all(|known| known.get(arch::SP) != sp);
        if instruction.opcode == RET && is_new() {
            returns.push(state.0);
        }
    });
    returns
}

/// Returns whether a call of the function at `target`, whose return address is at `place`, leads to
/// an instruction with the registers that it has.
pub(in crate::stacks::linux) fn leads_to(
    registers: &Registers,
    target: u64,
    place: u64,
    stack: &StackSnapshot,
) -> bool {
    let mut is_reached = false;
    explore(arch::of_blocked(target, place), stack, |state, _| {
        let is_same = |register| state.0.get(register) == registers.get(register);
        is_reached |= is_same(arch::PC) && is_same(arch::SP);
    });
    is_reached
}

/// Follows all paths from an instruction, and calls `visit` before each instruction.
fn explore(start: Registers, stack: &StackSnapshot, mut visit: impl FnMut(&State, &Instruction)) {
    let (mut states, mut visited) = (VecDeque::from([State(start)]), HashSet::new());
    while let Some(mut state) = states.pop_front().filter(|_| visited.len() < MAX_INSTRUCTIONS) {
        let Some(instruction) = state.pc().filter(|pc| visited.insert(*pc)).and_then(decode_at)
        else {
            continue;
        };
        visit(&state, &instruction);
        match state.execute(&instruction, stack) {
            Some(Next::Continue) => states.push_back(state),
            Some(Next::Jump(target)) => states.push_back(state.at(target)),
            Some(Next::Branch(target)) => states.extend([state.at(target), state]),
            None => {}
        }
    }
}

/// Returns whether the thread ends after a call has returned: a system call, behind which the
/// processor would halt.
pub(in crate::stacks::linux) fn exits(return_address: u64) -> bool {
    let mut pc = return_address;
    let mut last = 0;
    for _ in 0..MAX_EXIT_INSTRUCTIONS {
        match decode_at(pc) {
            Some(Instruction { opcode: 0xf4, .. }) => return last == 0x0f05,
            Some(instruction) => {
                last = instruction.opcode;
                pc = pc.wrapping_add(instruction.len);
            }
            None => return false,
        }
    }
    false
}

fn decode_at(address: u64) -> Option<Instruction> {
    let mut code = [0; MAX_LENGTH];
    let len = os::read_process_memory(address, &mut code);
    Instruction::decode(&code[..len])
}

/// Returns whether a function stops the program at once, as one does that is called when a stack
/// has been overwritten.
fn halts(function: u64) -> bool {
    decode_at(function).is_some_and(|first| matches!(first.opcode, 0xf4 | 0x0f0b))
}

// === impl State ===

impl State {
    fn pc(&self) -> Option<u64> {
        self.0.get(arch::PC)
    }

    fn at(&self, pc: u64) -> Self {
        let mut state = *self;
        state.0.set(arch::PC, Some(pc));
        state
    }

    fn get(&self, register: u8) -> Option<u64> {
        self.0.get(dwarf_number(register))
    }

    fn set(&mut self, register: u8, value: Option<u64>) {
        self.0.set(dwarf_number(register), value);
    }

    /// Executes an instruction, as far as the stack pointer and what is popped depend on it.
    /// Returns `None` if it ends the path, or if what follows is not known.
    fn execute(&mut self, instruction: &Instruction, stack: &StackSnapshot) -> Option<Next> {
        let next = self.pc()?.checked_add(instruction.len)?;
        self.0.set(arch::PC, Some(next));
        let target = || next.wrapping_add_signed(instruction.immediate());
        match (instruction.opcode, instruction.extension()) {
            (0x50..=0x57 | 0x68 | 0x6a | 0x9c, _) | (0xff, 6) => self.add_to_rsp(-8)?,
            (0x58..=0x5f, _) => self.pop(instruction.opcode_register(), stack)?,
            (0x8f, 0) | (0x9d, _) => self.add_to_rsp(8)?,
            (0xc9, _) => {
                self.set(RSP, self.get(RBP));
                self.pop(RBP, stack)?;
            }
            (0x70..=0x7f | 0xe0..=0xe3 | 0x0f80..=0x0f8f, _) => {
                return Some(Next::Branch(target()));
            }
            (0xe9 | 0xeb, _) => return Some(Next::Jump(target())),
            (0xe8, _) if halts(target()) => return None,
            // Returns, traps, and jumps to an address that is in a register.
            (RET | 0xc2 | 0xc8 | 0xca..=0xcf | 0xf4 | 0x0f0b, _) | (0xff, 3..=5) => return None,
            _ if instruction.writes_rsp() => self.set(RSP, Some(self.new_rsp(instruction)?)),
            _ => {}
        }
        Some(Next::Continue)
    }

    /// Returns what an instruction sets the stack pointer to: itself or the frame pointer, and a
    /// fixed distance.
    fn new_rsp(&self, instruction: &Instruction) -> Option<u64> {
        let immediate = instruction.immediate();
        let (base, offset) = match (instruction.opcode, instruction.extension()) {
            (0x81 | 0x83, 0) => (RSP, immediate),
            (0x81 | 0x83, 5) => (RSP, immediate.checked_neg()?),
            (0x89, _) => (instruction.register(), 0),
            (0x8b, _) => (instruction.register_operand()?, 0),
            (0x8d, _) => instruction.base()?,
            _ => return None,
        };
        if matches!(base, RSP | RBP) { self.get(base)?.checked_add_signed(offset) } else { None }
    }

    fn pop(&mut self, register: u8, stack: &StackSnapshot) -> Option<()> {
        let value = self.get(RSP).and_then(|sp| stack.word(sp));
        self.add_to_rsp(8)?;
        self.set(register, value);
        (register != RSP).then_some(())
    }

    fn add_to_rsp(&mut self, distance: i64) -> Option<()> {
        let rsp = self.get(RSP)?.checked_add_signed(distance)?;
        self.set(RSP, Some(rsp));
        Some(())
    }
}

fn dwarf_number(register: u8) -> u16 {
    DWARF_NUMBERS.get(usize::from(register)).copied().unwrap_or(register.into())
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    #[cfg(target_env = "gnu")]
    use crate::stacks::linux::modules::Modules;

    const BASE: u64 = 0x7000_0000_0000;

    /// Returns where the return address of a function with this code is above the stack pointer,
    /// and rbp in the caller. The words above the stack pointer are 0, 1, 2, ….
    fn caller(code: &[u8], rbp: Option<u64>) -> Vec<(u64, Option<u64>)> {
        let mut stack = StackSnapshot::with_capacity(128);
        stack.fill(BASE, |bytes| {
            for (word, bytes) in (0_u64..).zip(bytes.chunks_mut(8)) {
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
            128
        });
        let mut registers = arch::of_blocked(code.as_ptr().addr() as u64, BASE);
        registers.set(arch::FP, rbp);
        let place = |found: &Registers| found.get(arch::SP).unwrap().wrapping_sub(BASE);
        let found = returns(&registers, &stack);
        found.iter().map(|found| (place(found), found.get(arch::FP))).collect()
    }

    #[test]
    fn what_an_epilogue_pops_is_known() {
        let code = [
            0x48, 0x83, 0xc4, 0x18, // add rsp, 24
            0x5b, // pop rbx
            0x5d, // pop rbp
            0xc3, // ret
        ];
        assert_eq!(caller(&code, None), [(40, Some(4))]);
    }

    #[test]
    fn a_frame_pointer_restores_the_stack_pointer() {
        assert_eq!(caller(&[0xc9, 0xc3], Some(BASE + 48)), [(56, Some(6))], "leave");
        let lea = [0x48, 0x8d, 0x65, 0xf8, 0x5b, 0x5d, 0xc3]; // lea rsp, [rbp - 8]
        assert_eq!(caller(&lea, Some(BASE + 48)), [(56, Some(6))]);
        assert_eq!(caller(&lea, None), [], "it is not known");
    }

    #[test]
    fn all_paths_are_followed_to_where_they_return() {
        let code = [
            0x75, 0x03, // jne +3
            0x58, // pop rax
            0xeb, 0x04, // jmp +4
            0x59, // pop rcx
            0x6a, 0x01, // push 1
            0x58, // pop rax
            0xc3, // ret
        ];
        // The second path pops what it has pushed.
        assert_eq!(caller(&code, None), [(8, None)]);
    }

    #[test]
    fn code_behind_a_call_that_stops_the_program_is_not_followed() {
        let code = [
            0x75, 0x06, // jne +6
            0xe8, 0x06, 0x00, 0x00, 0x00, // call +6
            0xc3, // ret: of another function
            0x48, 0x83, 0xc4, 0x08, // add rsp, 8
            0xc3, // ret
            0xf4, // hlt
        ];
        assert_eq!(caller(&code, None), [(8, None)]);
    }

    #[test]
    fn a_call_leads_to_the_instructions_of_its_function() {
        let code: [u8; 16] = [
            0xeb, 0x01, // jmp +1: a tail call
            0xc3, // ret
            0x53, // push rbx
            0x48, 0x83, 0xec, 0x10, // sub rsp, 16
            0x0f, 0x05, // syscall
            0x48, 0x83, 0xc4, 0x10, // add rsp, 16
            0x5b, // pop rbx
            0xc3, // ret
        ];
        let start = code.as_ptr().addr() as u64;
        let stack = StackSnapshot::with_capacity(0);
        let leads =
            |pc, place| leads_to(&arch::of_blocked(start + pc, BASE), start, BASE + place, &stack);
        assert!(leads(10, 24), "behind the system call");
        assert!(!leads(10, 16) && !leads(9, 24) && !leads(2, 0), "elsewhere");
    }

    #[test]
    fn a_loop_that_never_returns_has_no_caller() {
        assert_eq!(caller(&[0x0f, 0x05, 0xeb, 0xfc], None), []);
        assert_eq!(caller(&[0xff, 0xe0], None), [], "jmp rax");
        assert_eq!(caller(&[0x48, 0x83, 0xe4, 0xf0, 0xc3], None), [], "and rsp, -16");
    }

    /// The end of musl's `clone`.
    #[test]
    fn the_end_of_a_thread_is_recognized() {
        let code = [
            0x89, 0xc7, // mov edi, eax
            0x31, 0xc0, // xor eax, eax
            0xb0, 0x3c, // mov al, SYS_exit
            0x0f, 0x05, // syscall
            0xf4, // hlt
        ];
        let exits_at = |code: &[u8]| exits(code.as_ptr().addr() as u64);
        assert!(exits_at(&code));
        assert!(!exits_at(&code[8..]), "nothing but `hlt`");
        assert!(!exits_at(&[0x89, 0xc7, 0xc3, 0xf4, 0xc3]));
    }

    proptest! {
        #[test]
        fn property_any_code_is_followed_to_an_end(code: Vec<u8>, rbp: Option<u64>) {
            let _ = caller(&code, rbp);
            let _ = exits(code.as_ptr().addr() as u64);
        }
    }

    /// Returns the addresses behind the direct calls of glibc. Not those at the end of a function,
    /// nor other calls of the same target, which does not return.
    #[cfg(target_env = "gnu")]
    fn calls_in_libc(path: &std::path::Path, bias: u64) -> Vec<u64> {
        use object::{Object, ObjectSymbol, SymbolKind};

        let file = std::fs::read(path).unwrap();
        let file = object::File::parse(&*file).unwrap();
        let (mut calls, mut last_targets) = (Vec::new(), HashSet::new());
        for function in file.dynamic_symbols().filter(|found| found.kind() == SymbolKind::Text) {
            let mut pc = function.address() + bias;
            let end = pc + function.size();
            while let Some(instruction) = decode_at(pc).filter(|_| pc < end) {
                pc += instruction.len;
                let target = pc.wrapping_add_signed(instruction.immediate());
                match instruction.opcode {
                    0xe8 if pc == end => drop(last_targets.insert(target)),
                    0xe8 => calls.push((pc, target)),
                    _ => {}
                }
            }
        }
        calls.retain(|(_, target)| !last_targets.contains(target));
        calls.into_iter().map(|(pc, _)| pc).collect()
    }

    /// At the calls in glibc, the return address is where its tables say.
    #[cfg(target_env = "gnu")]
    #[test]
    fn the_return_address_is_where_the_tables_say() {
        const FRAME: u64 = 1 << 12;
        let (mut modules, mut context) = (Modules::default(), gimli::UnwindContext::new());
        modules.refresh();
        let libc = modules.at((libc::getpid as *const ()).addr() as u64).unwrap();
        let (stack, mut registers) = (StackSnapshot::with_capacity(0), arch::of_blocked(0, BASE));
        registers.set(arch::FP, Some(BASE + FRAME));
        let (mut found, mut missed) = (0, 0);
        for pc in calls_in_libc(libc.path, libc.bias).into_iter().step_by(5) {
            let cfi = modules.find(pc - 1).and_then(|module| module.cfi());
            let row = cfi.and_then(|cfi| cfi.row(pc - 1, &mut context));
            let Some(gimli::CfaRule::RegisterAndOffset { register, offset }) =
                row.map(|row| row.cfa().clone())
            else {
                continue;
            };
            registers.set(arch::PC, Some(pc));
            let base = registers.get(register.0).unwrap();
            let expected = base.checked_add_signed(offset - 8);
            let places = returns(&registers, &stack);
            if places.iter().any(|place| place.get(arch::SP) == expected) {
                found += 1;
            } else {
                missed += 1;
            }
        }
        assert!(found > 500 && missed < found / 10, "{found} found, {missed} missed");
    }
}
