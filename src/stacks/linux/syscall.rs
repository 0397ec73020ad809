//! A thread that a signal took out of a system call: it slept, and did not run.

use super::memory;
use crate::stacks::raw::Registers;

const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// What the kernel returns for a call that it does not take up again.
const BROKEN_OFF: u64 = (-(libc::EINTR as i64)) as u64;

/// Whether a signal that came with these registers broke a system call off. The kernel then either returns an error, or goes back to
/// the instruction, to take the call up again. A call that it lets come to its end, as of a disk, is none of these.
pub(super) fn is_broken_off(registers: &Registers) -> bool {
    let (Some(pc), Some(result)) = (registers.get(Registers::PC), registers.get(Registers::RAX)) else { return false };
    let is_call = |address| memory::array(address) == Some(SYSCALL);
    is_call(pc) || (result == BROKEN_OFF && is_call(pc.wrapping_sub(SYSCALL.len() as u64)))
}
