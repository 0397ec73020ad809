//! The frame pointer of a sleeping thread, which the kernel does not tell, from how the function at hand has set it up.
//!
//! Where the tables reckon from rbp, the function once did `push rbp; mov rbp, rsp`, and then moved rsp further down by
//! a fixed amount. rsp is known, so rbp is. A wrong guess is found out afterwards: no return address is where it should
//! be.

use std::ops::Range;

use super::memory;

/// `mov rbp, rsp`, as the two kinds of assemblers write it.
const SETS: [[u8; 3]; 2] = [[0x48, 0x89, 0xe5], [0x48, 0x8b, 0xec]];
/// How much of a function is read. Behind it the body has begun, or nothing can be said anyway.
const LONGEST: u64 = 256;

/// How far rbp lies above rsp in the body of a function. `code` is the function's from behind `mov rbp, rsp` to its
/// end. `None` where it is not set up like that.
pub(super) fn frame_pointer_height(code: Range<u64>) -> Option<u64> {
    let set = memory::array(code.start.checked_sub(3)?)?;
    let end = code.end.min(code.start.saturating_add(LONGEST));
    if SETS.contains(&set) { height_after(&memory::copy(code.start..end)?) } else { None }
}

/// How far rsp goes down in the instructions that a body begins with.
fn height_after(code: &[u8]) -> Option<u64> {
    let mut prologue = Prologue { code, height: Some(0) };
    while prologue.step().is_some() {}
    prologue.height
}

/// The rest of a prologue as it is read.
struct Prologue<'c> {
    /// What is not yet read.
    code: &'c [u8],
    /// How far rsp has gone down so far. `None` when nobody knows.
    height: Option<u64>,
}

// === impl Prologue ===

impl Prologue<'_> {
    /// Reads one instruction. `None` when the body has begun.
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
            // mov qword [rsp], 0: touches a page of a large frame
            [0x48, 0xc7, 0x04, 0x24, ..] => self.skip(8),
            // or qword [rsp], 0: the same, by gcc
            [0x48, 0x83, 0x0c, 0x24, _, ..] => self.skip(5),
            // lea r11, [rsp - imm32]: a loop follows that lowers rsp to r11 and touches every page
            [0x4c, 0x8d, 0x9c, 0x24, a, b, c, d, ..] => {
                self.skip(8)?;
                self.probe_loop()?;
                self.lower(imm32([a, b, c, d]).wrapping_neg() & u64::from(u32::MAX), 0)
            }
            // and rsp, imm8; and rsp, imm32: lowers it nobody knows how far
            [0x48, 0x83, 0xe4, ..] | [0x48, 0x81, 0xe4, ..] => {
                self.height = None;
                None
            }
            _ => None,
        }
    }

    /// Goes behind the loop that touches the pages of a large frame: it ends with `cmp rsp, r11; jne`.
    fn probe_loop(&mut self) -> Option<()> {
        let end = self.code.windows(4).take(32).position(|code| matches!(*code, [0x4c, 0x39, 0xdc, 0x75]))?;
        self.skip(end + 5)
    }

    /// rsp goes down.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_prologue_is_read() {
        let code = [
            0x41, 0x57, // push r15
            0x53, // push rbx
            0x48, 0x83, 0xec, 0x18, // sub rsp, 0x18
            0x48, 0x89, 0xfb, // mov rbx, rdi
            0x50, // push rax: the body's
        ];
        assert_eq!(height_after(&code), Some(0x28));
    }

    #[test]
    fn a_large_frame_is_read() {
        let code = [
            0x48, 0x81, 0xec, 0x00, 0x10, 0x00, 0x00, // sub rsp, 0x1000
            0x48, 0xc7, 0x04, 0x24, 0x00, 0x00, 0x00, 0x00, // mov qword [rsp], 0
            0x48, 0x81, 0xec, 0x20, 0x01, 0x00, 0x00, // sub rsp, 0x120
        ];
        assert_eq!(height_after(&code), Some(0x1120));
    }

    #[test]
    fn a_loop_over_the_pages_is_read() {
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
    fn a_frame_of_128_bytes_is_read() {
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
}
