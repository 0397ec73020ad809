//! Recognizes a thread that a signal has interrupted in a system call: it was blocked, not running.

use super::{arch, memory};
use crate::stacks::snapshot::Registers;

/// What the kernel returns for a system call that it does not restart.
const EINTR_RESULT: u64 = (-(libc::EINTR as i64)) as u64;

/// Returns whether a signal that arrived with these registers has interrupted a system call.
///
/// In that case the kernel either returns EINTR, or sets the program counter back to the
/// instruction, to restart the call. A call that it lets complete, such as a read from a disk, is
/// not recognized.
pub(super) fn was_interrupted(registers: &Registers) -> bool {
    let (Some(pc), Some(result)) = (registers.get(arch::PC), registers.get(arch::RESULT)) else {
        return false;
    };
    is_syscall(pc) || (result == EINTR_RESULT && returns_from_syscall(registers))
}

/// Returns whether a signal that arrived with these registers was delivered when a system call
/// returned, or was about to be restarted.
pub(super) fn returns_from_syscall(registers: &Registers) -> bool {
    let follows =
        |pc: u64| is_syscall(pc) || is_syscall(pc.wrapping_sub(arch::SYSCALL.len() as u64));
    registers.get(arch::PC).is_some_and(follows)
}

fn is_syscall(address: u64) -> bool {
    memory::array(address) == Some(arch::SYSCALL)
}
