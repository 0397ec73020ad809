//! Checks whether an address is a return address: whether it follows a call instruction.
//!
//! Not with `iced-x86`, whose tables take up about a megabyte: all forms of a call fit into the
//! forty lines below.

use crate::stacks::linux::memory;

/// The longest form: a prefix, the opcode, ModRM, SIB, and a displacement of four bytes.
const MAX_LENGTH: usize = 8;

/// Returns whether the instruction before an address is a call.
pub(in crate::stacks::linux) fn is_return_address(address: u64) -> bool {
    let before = address.checked_sub(MAX_LENGTH as u64).and_then(memory::array::<MAX_LENGTH>);
    before.is_some_and(|code| ends_with_call(&code))
}

/// Returns what the call before a return address may have called, if that is encoded in it, or is in
/// memory at an address that is: two forms may end with the same bytes.
pub(in crate::stacks::linux) fn call_targets(address: u64) -> impl Iterator<Item = u64> {
    let code = address.checked_sub(6).and_then(memory::array::<6>).unwrap_or_default();
    let to = |[a, b, c, d]: [u8; 4]| {
        address.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])))
    };
    let [first, second, operand @ ..] = code;
    let direct = (second == 0xe8).then(|| to(operand));
    let by_memory = ([first, second] == [0xff, 0x15]).then(|| memory::array(to(operand)));
    direct.into_iter().chain(by_memory.flatten().map(u64::from_ne_bytes))
}

/// Returns whether `code` ends with a call. Prefixes are not relevant: they precede the opcode.
fn ends_with_call(code: &[u8]) -> bool {
    let mut ends = (0..code.len()).filter_map(|start| code.get(start..));
    ends.any(|call| matches!(call, [0xe8, _, _, _, _]) || is_indirect_call(call))
}

/// Returns whether `code` is exactly one call through a register or through memory.
fn is_indirect_call(code: &[u8]) -> bool {
    match code {
        [0xff, modrm, operand @ ..] => {
            modrm & 0x38 == 0x10 && operand.len() == operand_len(*modrm, operand.first())
        }
        _ => false,
    }
}

/// Returns how many bytes follow a ModRM byte: the SIB byte and the displacement.
pub(super) fn operand_len(modrm: u8, next: Option<&u8>) -> usize {
    let (mode, base) = (modrm >> 6, modrm & 7);
    let sib = if mode != 3 && base == 4 { next } else { None };
    let base = sib.map_or(base, |sib| sib & 7);
    let displacement = match mode {
        0 if base == 5 => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    usize::from(sib.is_some()) + displacement
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_forms_of_a_call_are_recognized() {
        let calls: [&[u8]; 12] = [
            &[0xe8, 1, 2, 3, 4],                         // call rel32
            &[0xff, 0x15, 1, 2, 3, 4],                   // call [rip+disp32]
            &[0xff, 0xd0],                               // call rax
            &[0x41, 0xff, 0xd7],                         // call r15
            &[0xff, 0x10],                               // call [rax]
            &[0xff, 0x14, 0xc8],                         // call [rax+rcx*8]
            &[0xff, 0x14, 0x25, 1, 2, 3, 4],             // call [disp32]
            &[0xff, 0x14, 0xc5, 1, 2, 3, 4],             // call [rax*8+disp32]
            &[0xff, 0x50, 0x18],                         // call [rax+disp8]
            &[0x41, 0xff, 0x54, 0x24, 0x20],             // call [r12+disp8]
            &[0xff, 0x90, 1, 2, 3, 4],                   // call [rax+disp32]
            &[0x41, 0xff, 0x94, 0x24, 0x20, 0x01, 0, 0], // call [r12+disp32]
        ];
        for call in calls {
            let mut code = vec![0x90; MAX_LENGTH - call.len()];
            code.extend_from_slice(call);
            assert!(ends_with_call(&code), "{call:x?}");
        }
    }

    #[test]
    fn other_code_is_not_a_call() {
        let others: [&[u8]; 5] = [
            &[0x90; 8],                   // nop
            &[0xff, 0xe0],                // jmp rax
            &[0xff, 0x15, 1, 2, 3],       // incomplete call
            &[0xe8, 1, 2, 3, 4, 0x90],    // call and nop
            &[0x48, 0x89, 0xe5, 0, 0, 0], // mov
        ];
        for other in others {
            let mut code = vec![0x90; MAX_LENGTH - other.len()];
            code.extend_from_slice(other);
            assert!(!ends_with_call(&code), "{other:x?}");
        }
    }

    proptest! {
        #[test]
        fn property_any_code_is_decoded(code: Vec<u8>) {
            let _ = ends_with_call(&code);
        }

        #[test]
        fn property_a_direct_call_is_found_behind_any_code(before: Vec<u8>, to: [u8; 4]) {
            let code = [&before[..], &[0xe8], &to].concat();
            prop_assert!(ends_with_call(&code));
        }
    }
}
