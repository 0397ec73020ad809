//! What depends on the processor: its registers, its calls, and its functions' prologues. Everything
//! else that captures and unwinds a stack is shared.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::ffi::c_void;
use std::ptr;

#[cfg(target_arch = "aarch64")]
use self::aarch64 as this;
#[cfg(target_arch = "x86_64")]
use self::x86_64 as this;
use crate::stacks::snapshot::Registers;

#[cfg(target_arch = "aarch64")]
pub(super) use self::aarch64::{calls_of, function_called, functions_jumped_to};
pub(super) use self::this::{
    CALL_PUSHES, CALLEE_SAVED, CFI_VENDOR, FP, PC, RESULT, RETURN_ADDRESS, SAVED_ORDER, SP,
    SYSCALL, SavedRegisters, frame_pointer_height, is_return_address, strip,
};
#[cfg(target_arch = "x86_64")]
pub(super) use self::x86_64::{call_targets, exits, leads_to, returns};

/// The number of the registers that the unwinder knows.
pub(super) const REGISTERS: usize = SAVED_ORDER.len();

/// Returns the registers of a thread that is blocked in the kernel, of which two are known.
pub(super) fn of_blocked(pc: u64, sp: u64) -> Registers {
    let mut registers = Registers::default();
    registers.set(PC, Some(pc));
    registers.set(SP, Some(sp));
    registers
}

/// Returns where the kernel has saved the registers; null if `context` is.
///
/// This is not a reference to the whole context, because the kernel's `ucontext_t` is shorter than
/// the C library's.
pub(super) fn saved_registers(context: *mut c_void) -> *const SavedRegisters {
    if context.is_null() {
        return ptr::null();
    }
    context.wrapping_byte_add(this::SAVED_OFFSET).cast_const().cast()
}
