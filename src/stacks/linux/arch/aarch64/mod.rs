//! The registers of aarch64, by their DWARF numbers.

mod call;
mod instruction;
mod prologue;

use std::mem::offset_of;

use crate::os;

pub(in crate::stacks::linux) use self::call::{
    calls_of, function_called, functions_jumped_to, is_return_address,
};
pub(in crate::stacks::linux) use self::prologue::frame_pointer_height;

/// x29.
pub(in crate::stacks::linux) const FP: u16 = 29;
/// x30, the link register: a call puts the return address there.
pub(in crate::stacks::linux) const RETURN_ADDRESS: u16 = 30;
pub(in crate::stacks::linux) const SP: u16 = 31;
pub(in crate::stacks::linux) const PC: u16 = 32;
/// Whether a call pushes the return address, and does not keep it in a register.
pub(in crate::stacks::linux) const CALL_PUSHES: bool = false;
/// x0, which has the result of a system call.
pub(in crate::stacks::linux) const RESULT: u16 = 0;
/// The registers that a function preserves for its caller, unless its tables state otherwise.
pub(in crate::stacks::linux) const CALLEE_SAVED: [u16; 11] =
    [19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29];
/// The extensions of the tables: an instruction for signed return addresses.
pub(in crate::stacks::linux) const CFI_VENDOR: gimli::Vendor = gimli::Vendor::AArch64;

/// `svc 0`
pub(in crate::stacks::linux) const SYSCALL: [u8; 4] = 0xd400_0001_u32.to_le_bytes();

/// x0 to x30, the stack pointer and the program counter, as they follow each other in `ucontext_t`.
pub(in crate::stacks::linux) type SavedRegisters = [u64; 33];

/// The indices of registers in [`SavedRegisters`], in the order of their DWARF numbers.
pub(in crate::stacks::linux) const SAVED_ORDER: [usize; 33] = {
    let mut order = [0; 33];
    let mut number = 0;
    while number < order.len() {
        order[number] = number;
        number += 1;
    }
    order
};

/// Where the registers are in a context.
pub(in crate::stacks::linux) const SAVED_OFFSET: usize =
    offset_of!(libc::ucontext_t, uc_mcontext.regs);

/// Returns the address that a return address stands for, which may be signed.
pub(in crate::stacks::linux) fn strip(address: u64) -> u64 {
    os::strip_authentication_code(address)
}
