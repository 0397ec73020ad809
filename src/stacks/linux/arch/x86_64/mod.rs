//! The registers of x86_64, by their DWARF numbers.

mod call;
mod epilogue;
mod instruction;
mod prologue;

use std::mem::offset_of;

pub(in crate::stacks::linux) use self::call::{call_targets, is_return_address};
pub(in crate::stacks::linux) use self::epilogue::{exits, leads_to, returns};
pub(in crate::stacks::linux) use self::prologue::frame_pointer_height;

/// rbp.
pub(in crate::stacks::linux) const FP: u16 = 6;
/// rsp.
pub(in crate::stacks::linux) const SP: u16 = 7;
/// Not a register: the column of the return address.
pub(in crate::stacks::linux) const PC: u16 = 16;
pub(in crate::stacks::linux) const RETURN_ADDRESS: u16 = PC;
/// Whether a call pushes the return address, and does not keep it in a register.
pub(in crate::stacks::linux) const CALL_PUSHES: bool = true;
/// rax, which has the result of a system call.
pub(in crate::stacks::linux) const RESULT: u16 = 0;
/// The registers that a function preserves for its caller, unless its tables state otherwise: rbx,
/// rbp, and r12 to r15.
pub(in crate::stacks::linux) const CALLEE_SAVED: [u16; 6] = [3, 6, 12, 13, 14, 15];

/// The extensions of the tables: none.
pub(in crate::stacks::linux) const CFI_VENDOR: gimli::Vendor = gimli::Vendor::Default;

/// `syscall`
pub(in crate::stacks::linux) const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// The general-purpose registers in the order of `ucontext_t`.
pub(in crate::stacks::linux) type SavedRegisters = [u64; 23];

/// The indices of registers in [`SavedRegisters`], in the order of their DWARF numbers.
pub(in crate::stacks::linux) const SAVED_ORDER: [usize; 17] = [
    libc::REG_RAX as usize,
    libc::REG_RDX as usize,
    libc::REG_RCX as usize,
    libc::REG_RBX as usize,
    libc::REG_RSI as usize,
    libc::REG_RDI as usize,
    libc::REG_RBP as usize,
    libc::REG_RSP as usize,
    libc::REG_R8 as usize,
    libc::REG_R9 as usize,
    libc::REG_R10 as usize,
    libc::REG_R11 as usize,
    libc::REG_R12 as usize,
    libc::REG_R13 as usize,
    libc::REG_R14 as usize,
    libc::REG_R15 as usize,
    libc::REG_RIP as usize,
];

/// Where the registers are in a context.
pub(in crate::stacks::linux) const SAVED_OFFSET: usize =
    offset_of!(libc::ucontext_t, uc_mcontext.gregs);

/// Returns the address that a return address stands for: itself, because it is not signed.
pub(in crate::stacks::linux) fn strip(address: u64) -> u64 {
    address
}
