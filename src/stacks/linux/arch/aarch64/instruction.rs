//! Decodes the instructions that calls and prologues consist of.

use std::ops::Range;

use crate::stacks::linux::memory;

/// The size of the pieces in which code is read.
const PIECE: usize = 64 * 1024;

/// The number of the stack pointer in an instruction that has it as an operand.
pub(super) const SP: u8 = 31;

/// An instruction, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    /// `bl`, with the distance of its target.
    Call(i64),
    /// `blr`, and its forms that authenticate the target.
    IndirectCall,
    /// `b`, with the distance of its target.
    Jump(i64),
    /// `br`, and its forms that authenticate the target.
    IndirectJump,
    /// `b.ne`
    JumpIfNotEqual,
    /// `adrp`, with the distance of the page.
    Page {
        to: u8,
        distance: i64,
    },
    /// `ldr to, [from, #offset]`
    Load {
        to: u8,
        from: u8,
        offset: u64,
    },
    /// `str xzr, [sp, #offset]`
    StoreZeroToStack,
    /// `add to, from, #value`; with 0, it is `mov` to or from the stack pointer.
    Add {
        to: u8,
        from: u8,
        value: u64,
    },
    /// `sub to, from, #value`
    Sub {
        to: u8,
        from: u8,
        value: u64,
    },
    /// An instruction that older processors ignore: a landing pad, or one that signs or authenticates
    /// the return address.
    Hint,
    Other,
}

impl Instruction {
    /// The size of an instruction, in bytes.
    pub(super) const SIZE: u64 = 4;

    pub(super) fn decode(code: u32) -> Self {
        let (to, from) = (register(code), register(code >> 5));
        if code & 0xfc00_0000 == 0x9400_0000 {
            Self::Call(signed(code, 26) * 4)
        } else if code & 0xfc00_0000 == 0x1400_0000 {
            Self::Jump(signed(code, 26) * 4)
        } else if is_through_register(code, 0xd63f_0000) {
            Self::IndirectCall
        } else if is_through_register(code, 0xd61f_0000) {
            Self::IndirectJump
        } else if code & 0xff00_001f == 0x5400_0001 {
            Self::JumpIfNotEqual
        } else if code & 0x9f00_0000 == 0x9000_0000 {
            let pages = signed(code >> 5, 19) * 4 + i64::from(code >> 29 & 3);
            Self::Page { to, distance: pages * 4096 }
        } else if code & 0xffc0_0000 == 0xf940_0000 {
            Self::Load { to, from, offset: u64::from(code >> 10 & 0xfff) * 8 }
        } else if code & 0xffc0_03ff == 0xf900_03ff {
            Self::StoreZeroToStack
        } else if code & 0xff80_0000 == 0x9100_0000 {
            Self::Add { to, from, value: immediate(code) }
        } else if code & 0xff80_0000 == 0xd100_0000 {
            Self::Sub { to, from, value: immediate(code) }
        } else if code & 0xffff_f01f == 0xd503_201f {
            Self::Hint
        } else {
            Self::Other
        }
    }
}

/// Reads the instructions of some code, with their addresses, as far as it is mapped.
pub(super) fn read(code: Range<u64>) -> impl Iterator<Item = (u64, Instruction)> {
    let pieces = code.clone().step_by(PIECE).map_while(move |start| {
        let end = code.end.min(start.saturating_add(PIECE as u64));
        memory::copy(start..end).map(|piece| (start, piece))
    });
    pieces.flat_map(|(start, piece)| {
        let words = (0..piece.len()).step_by(Instruction::SIZE as usize);
        words.filter_map(move |at| {
            let word = piece.get(at..at + Instruction::SIZE as usize)?.try_into().ok()?;
            Some((start + at as u64, Instruction::decode(u32::from_le_bytes(word))))
        })
    })
}

fn register(code: u32) -> u8 {
    (code & 31) as u8
}

/// Returns the signed number in the lowest bits.
fn signed(code: u32, bits: u32) -> i64 {
    i64::from((code << (32 - bits)) as i32 >> (32 - bits))
}

/// Returns the twelve bits of an addition or subtraction, which may be shifted by twelve.
fn immediate(code: u32) -> u64 {
    u64::from(code >> 10 & 0xfff) << (12 * (code >> 22 & 1))
}

/// Returns whether the target of a branch is in a register: of the plain form, or one of the forms
/// that authenticate it, with a modifier of zero or in another register.
fn is_through_register(code: u32, plain: u32) -> bool {
    code & 0xffff_fc1f == plain
        || code & 0xffff_f81f == plain | 0x081f
        || code & 0xffff_f800 == plain | 0x0100_0800
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn instructions_are_decoded() {
        for (code, expected) in [
            (0x97ff_ffff, Instruction::Call(-4)),       // bl .-4
            (0x9400_0003, Instruction::Call(12)),       // bl .+12
            (0x17ff_fffe, Instruction::Jump(-8)),       // b .-8
            (0xd63f_0100, Instruction::IndirectCall),   // blr x8
            (0xd63f_091f, Instruction::IndirectCall),   // blraaz x8
            (0xd63f_0d1f, Instruction::IndirectCall),   // blrabz x8
            (0xd73f_0909, Instruction::IndirectCall),   // blraa x8, x9
            (0xd73f_0d1f, Instruction::IndirectCall),   // blrab x8, sp
            (0xd61f_0220, Instruction::IndirectJump),   // br x17
            (0xd65f_03c0, Instruction::Other),          // ret
            (0x54ff_ffa1, Instruction::JumpIfNotEqual), // b.ne .-12
            (0x54ff_ffa0, Instruction::Other),          // b.eq .-12
            (0xb000_24b0, Instruction::Page { to: 16, distance: 0x49_5000 }), // adrp x16
            (0xf0ff_fff0, Instruction::Page { to: 16, distance: -4096 }), // adrp x16
            (0xf942_de11, Instruction::Load { to: 17, from: 16, offset: 1464 }), // ldr x17
            (0xf900_03ff, Instruction::StoreZeroToStack), // str xzr, [sp]
            (0x9100_03fd, Instruction::Add { to: 29, from: SP, value: 0 }), // mov x29, sp
            (0x9100_83fd, Instruction::Add { to: 29, from: SP, value: 32 }), // add x29, sp
            (0xd101_03ff, Instruction::Sub { to: SP, from: SP, value: 64 }), // sub sp, sp
            (0xd140_07ff, Instruction::Sub { to: SP, from: SP, value: 4096 }), // lsl #12
            (0xd503_245f, Instruction::Hint),           // bti c
            (0xd503_233f, Instruction::Hint),           // paciasp
            (0xa9bd_7bfd, Instruction::Other),          // stp
            (0, Instruction::Other),
        ] {
            assert_eq!(Instruction::decode(code), expected, "{code:#x}");
        }
    }

    proptest! {
        #[test]
        fn property_a_branch_has_its_distance(distance in -(1_i64 << 25)..1 << 25) {
            let bits = distance as u32 & 0x03ff_ffff;
            let branches = [0x9400_0000, 0x1400_0000].map(|code| Instruction::decode(code | bits));
            let distance = distance * 4;
            prop_assert_eq!(branches, [Instruction::Call(distance), Instruction::Jump(distance)]);
        }

        #[test]
        fn property_a_page_has_its_distance(pages in -(1_i64 << 20)..1 << 20, to in 0_u8..32) {
            let bits = pages as u32;
            let bits = (bits & 3) << 29 | (bits >> 2 & 0x7_ffff) << 5;
            let code = 0x9000_0000 | bits | u32::from(to);
            let expected = Instruction::Page { to, distance: pages * 4096 };
            prop_assert_eq!(Instruction::decode(code), expected);
        }

        #[test]
        fn property_any_code_is_decoded(code: u32) {
            let _ = Instruction::decode(code);
        }
    }
}
