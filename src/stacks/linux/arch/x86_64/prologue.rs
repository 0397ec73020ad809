//! Infers rbp of a blocked thread, which `/proc` does not expose, from the function's prologue.
//!
//! If the CFA is relative to rbp, the function has executed `push rbp; mov rbp, rsp`, and has then
//! lowered rsp by a fixed amount. Since rsp is known, the prologue yields rbp. A wrong result is
//! detected afterwards: no return address is found where the frame should end.
//!
//! A decoder for all instructions is not needed: an instruction that is not listed here ends the
//! prologue. The tests run code of rustc 1.95, and of the glibc 2.36 that gcc 12 has compiled for
//! Debian 12.

use std::ops::Range;

use crate::stacks::linux::memory;

/// `mov rbp, rsp`, in its two encodings.
const MOV_RBP_RSP: [[u8; 3]; 2] = [[0x48, 0x89, 0xe5], [0x48, 0x8b, 0xec]];
/// The most bytes of a function that are read, which is more than a prologue has.
const MAX_LENGTH: u64 = 256;

/// Returns how far rbp is above rsp in the body of a function. `code` is the function's code from
/// the instruction after `mov rbp, rsp`. Returns `None` if the function sets up rbp differently, or
/// if the distance is not fixed.
pub(in crate::stacks::linux) fn frame_pointer_height(code: Range<u64>) -> Option<u64> {
    let before = memory::array(code.start.checked_sub(3)?)?;
    let end = code.end.min(code.start.saturating_add(MAX_LENGTH));
    if MOV_RBP_RSP.contains(&before) { height_after(&memory::copy(code.start..end)?) } else { None }
}

/// Returns by how much a prologue lowers rsp.
fn height_after(code: &[u8]) -> Option<u64> {
    let mut prologue = Prologue { code, height: Some(0) };
    while prologue.step().is_some() {}
    prologue.height
}

/// A prologue that is being decoded.
struct Prologue<'c> {
    /// The code that has not been decoded yet.
    code: &'c [u8],
    /// By how much rsp has been lowered so far; `None` if that is not fixed.
    height: Option<u64>,
}

// === impl Prologue ===

impl Prologue<'_> {
    /// Decodes one instruction. Returns `None` once the body has begun.
    fn step(&mut self) -> Option<()> {
        match *self.code {
            // push reg
            [0x50..=0x57, ..] => self.lower(8, 1),
            [0x41, 0x50..=0x57, ..] => self.lower(8, 2),
            // sub rsp, imm8
            [0x48, 0x83, 0xec, imm @ ..0x80, ..] => self.lower(u64::from(imm), 4),
            // add rsp, -128: the same in fewer bytes
            [0x48, 0x83, 0xc4, 0x80, ..] => self.lower(128, 4),
            // sub rsp, imm32
            [0x48, 0x81, 0xec, a, b, c, d, ..] => self.lower(imm32([a, b, c, d]), 7),
            // mov qword [rsp], 0: probes a page of a large frame
            [0x48, 0xc7, 0x04, 0x24, ..] => self.skip(8),
            // or qword [rsp], 0: the same, from gcc
            [0x48, 0x83, 0x0c, 0x24, _, ..] => self.skip(5),
            // lea r11, [rsp - imm32]: before a loop that lowers rsp to r11 and probes every page
            [0x4c, 0x8d, 0x9c, 0x24, a, b, c, d, ..] => {
                self.skip(8)?;
                self.probe_loop()?;
                self.lower(imm32([a, b, c, d]).wrapping_neg() & u64::from(u32::MAX), 0)
            }
            // and rsp, imm8; and rsp, imm32: aligns rsp, by an amount that is not fixed
            [0x48, 0x83, 0xe4, ..] | [0x48, 0x81, 0xe4, ..] => {
                self.height = None;
                None
            }
            _ => None,
        }
    }

    /// Skips the loop that probes the pages of a large frame. It ends with `cmp rsp, r11; jne`.
    fn probe_loop(&mut self) -> Option<()> {
        let end = self
            .code
            .windows(4)
            .take(32)
            .position(|code| matches!(*code, [0x4c, 0x39, 0xdc, 0x75]))?;
        self.skip(end + 5)
    }

    /// Skips an instruction that lowers rsp.
    fn lower(&mut self, bytes: u64, len: usize) -> Option<()> {
        self.height = self.height.map(|height| height.wrapping_add(bytes));
        self.skip(len)
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.code = self.code.get(len..)?;
        Some(())
    }
}

fn imm32(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_le_bytes(bytes))
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pushes_and_locals_add_up() {
        let code = [
            0x41, 0x57, // push r15
            0x53, // push rbx
            0x48, 0x83, 0xec, 0x18, // sub rsp, 0x18
            0x48, 0x89, 0xfb, // mov rbx, rdi
            0x50, // push rax: in the body
        ];
        assert_eq!(height_after(&code), Some(0x28));
    }

    #[test]
    fn page_probes_of_a_large_frame_are_skipped() {
        let code = [
            0x48, 0x81, 0xec, 0x00, 0x10, 0x00, 0x00, // sub rsp, 0x1000
            0x48, 0xc7, 0x04, 0x24, 0x00, 0x00, 0x00, 0x00, // mov qword [rsp], 0
            0x48, 0x81, 0xec, 0x20, 0x01, 0x00, 0x00, // sub rsp, 0x120
        ];
        assert_eq!(height_after(&code), Some(0x1120));
    }

    #[test]
    fn a_probe_loop_is_skipped() {
        let code = [
            0x53, // push rbx
            0x4c, 0x8d, 0x9c, 0x24, 0x00, 0x00, 0xfe, 0xff, // lea r11, [rsp - 0x20000]
            0x48, 0x81, 0xec, 0x00, 0x10, 0x00, 0x00, // sub rsp, 0x1000
            0x48, 0xc7, 0x04, 0x24, 0x00, 0x00, 0x00, 0x00, // mov qword [rsp], 0
            0x4c, 0x39, 0xdc, // cmp rsp, r11
            0x75, 0xef, // jne
            0x48, 0x83, 0xec, 0x08, // sub rsp, 8
        ];
        assert_eq!(height_after(&code), Some(0x20010));
    }

    #[test]
    fn a_frame_of_128_bytes_is_recognized() {
        assert_eq!(height_after(&[0x53, 0x48, 0x83, 0xc4, 0x80, 0x90]), Some(136));
        assert_eq!(height_after(&[0x53, 0x48, 0x83, 0xc4, 0x18, 0x90]), Some(8), "an epilogue");
    }

    #[test]
    fn a_frame_without_locals_has_no_height() {
        assert_eq!(height_after(&[]), Some(0));
        assert_eq!(height_after(&[0xe8, 1, 2, 3, 4]), Some(0));
    }

    #[test]
    fn an_aligned_frame_has_no_fixed_height() {
        assert_eq!(height_after(&[0x53, 0x48, 0x83, 0xe4, 0xe0, 0x48, 0x83, 0xec, 0x40]), None);
    }

    const PUSHES: &[&[u8]] = &[&[0x53], &[0x41, 0x57], &[0x55]];

    proptest! {
        #[test]
        fn property_any_code_is_decoded_or_refused(code: Vec<u8>) {
            let _ = height_after(&code);
        }

        #[test]
        fn property_pushes_before_a_lowered_stack_add_up(
            pushes in proptest::collection::vec(proptest::sample::select(PUSHES), 0..6),
            locals in 0_u8..0x7f,
        ) {
            let mut code = pushes.concat();
            code.extend([0x48, 0x83, 0xec, locals, 0xe8]);
            prop_assert_eq!(height_after(&code), Some(8 * pushes.len() as u64 + u64::from(locals)));
        }
    }
}
