//! Infers x29 of a blocked thread, which `/proc` does not expose, from the function's prologue.
//!
//! If the CFA is relative to x29, the function has executed `add x29, sp, #n`, and has then lowered
//! the stack pointer by a fixed amount. A wrong result is detected afterwards: no return address is
//! found where the frame should be. The tests run code of rustc 1.95.

use std::ops::Range;

use super::instruction::{Instruction, SP, read};

const FP: u8 = 29;
/// The most bytes of a function that are read, which is more than a prologue has.
const MAX_LENGTH: u64 = 128;
/// The most instructions of the loop that probes the pages of a large frame.
const MAX_LOOP: usize = 8;

/// Returns how far x29 is above the stack pointer in the body of a function. `code` is the function's
/// code from the instruction after the one that sets x29. Returns `None` if the function sets x29
/// differently, or if the distance is not fixed.
pub(in crate::stacks::linux) fn frame_pointer_height(code: Range<u64>) -> Option<u64> {
    let start = code.start.checked_sub(Instruction::SIZE)?;
    let end = code.end.min(code.start.saturating_add(MAX_LENGTH));
    height(&read(start..end).map(|(_, instruction)| instruction).collect::<Vec<_>>())
}

/// Returns the height of x29 that a prologue yields, which begins with the instruction that sets it.
fn height(code: &[Instruction]) -> Option<u64> {
    let [Instruction::Add { to: FP, from: SP, value }, rest @ ..] = code else { return None };
    let (mut height, mut rest) = (*value, rest);
    loop {
        let lowered = match rest {
            [Instruction::Sub { to: SP, from: SP, value }, ..] => {
                rest = &rest[1..];
                *value
            }
            [Instruction::StoreZeroToStack, ..] => {
                rest = &rest[1..];
                0
            }
            // A copy of what the stack pointer will be, and a loop that probes every page up to there.
            [Instruction::Sub { from: SP, value, .. }, Instruction::Sub { to: SP, .. }, ..] => {
                let is_end = |code: &Instruction| *code == Instruction::JumpIfNotEqual;
                let end = rest.iter().take(MAX_LOOP).position(is_end)?;
                rest = &rest[end + 1..];
                *value
            }
            // The same before it is aligned, by an amount that is not fixed.
            [Instruction::Sub { from: SP, .. }, ..] => return None,
            _ => return Some(height),
        };
        height = height.checked_add(lowered)?;
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn height_of(code: &[u32]) -> Option<u64> {
        height(&code.iter().map(|code| Instruction::decode(*code)).collect::<Vec<_>>())
    }

    const MOV_X29_SP: u32 = 0x9100_03fd;
    const STR_XZR_SP: u32 = 0xf900_03ff;
    const STP: u32 = 0xa901_4ff4;

    #[test]
    fn what_is_below_the_record_is_added() {
        assert_eq!(height_of(&[0x9100_83fd, STP]), Some(32), "add x29, sp, #32");
        assert_eq!(height_of(&[MOV_X29_SP, STP]), Some(0));
        let large = [MOV_X29_SP, 0xd140_07ff, STR_XZR_SP, 0xd104_83ff, STP, 0xd100_43ff];
        assert_eq!(height_of(&large), Some(4096 + 288), "and what the body lowers is not");
    }

    #[test]
    fn a_probe_loop_is_skipped() {
        let code = [
            MOV_X29_SP,
            0xd140_23e9, // sub x9, sp, #8, lsl #12
            0xd140_07ff, // sub sp, sp, #1, lsl #12
            STR_XZR_SP,
            0xeb29_63ff, // cmp sp, x9
            0x54ff_ffa1, // b.ne
            0xd100_43ff, // sub sp, sp, #16
            STR_XZR_SP,
        ];
        assert_eq!(height_of(&code), Some(8 * 4096 + 16));
    }

    #[test]
    fn other_frames_have_no_fixed_height() {
        let aligned = [MOV_X29_SP, 0xd101_03e9, 0x927a_e53f]; // sub x9, sp, #64; and sp, x9, #-64
        assert_eq!(height_of(&aligned), None);
        assert_eq!(height_of(&[STP, MOV_X29_SP]), None, "x29 is not set");
        assert_eq!(height_of(&[]), None);
    }

    proptest! {
        #[test]
        fn property_any_code_is_decoded_or_refused(code: Vec<u32>) {
            let _ = height_of(&code);
            let _ = height_of(&[&[MOV_X29_SP], &code[..]].concat());
        }

        #[test]
        fn property_everything_that_lowers_the_stack_adds_up(
            record in 0_u32..4096,
            locals in proptest::collection::vec((0_u32..4096, any::<bool>()), 0..6),
        ) {
            let mut code = vec![MOV_X29_SP | record << 10];
            let sub = |(value, is_shifted): &(u32, bool)| {
                0xd100_03ff | u32::from(*is_shifted) << 22 | value << 10
            };
            code.extend(locals.iter().map(sub));
            code.push(STP);
            let bytes = |(value, is_shifted): &(u32, bool)| {
                u64::from(*value) << if *is_shifted { 12 } else { 0 }
            };
            let expected = u64::from(record) + locals.iter().map(bytes).sum::<u64>();
            prop_assert_eq!(height_of(&code), Some(expected));
        }
    }
}
