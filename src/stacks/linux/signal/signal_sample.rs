//! What the handler copies: the interrupted registers and the stack.

use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr;

use crate::os;
use crate::stacks::snapshot::{DEEP_CAPACITY, Registers, StackSnapshot};

/// The general-purpose registers in the order of `ucontext_t`.
pub(super) type GeneralRegisters = [libc::greg_t; 23];

/// The indices of registers in [`GeneralRegisters`], in the order of their DWARF numbers.
const DWARF_ORDER: [usize; 17] = [
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

/// The registers and the stack of an interrupted thread.
pub(super) struct SignalSample {
    registers: [u64; DWARF_ORDER.len()],
    /// When it was copied, in nanoseconds on the monotonic clock.
    at: u64,
    base: u64,
    len: usize,
    bytes: [u8; DEEP_CAPACITY],
}

/// Returns where the kernel has saved the registers; null if `context` is.
///
/// This is not a reference to the whole context, because the kernel's `ucontext_t` is shorter than
/// the C library's.
pub(super) fn saved_registers(context: *mut c_void) -> *const GeneralRegisters {
    if context.is_null() {
        return ptr::null();
    }
    context.wrapping_byte_add(offset_of!(libc::ucontext_t, uc_mcontext.gregs)).cast_const().cast()
}

// === impl SignalSample ===

impl SignalSample {
    pub(super) const fn empty() -> Self {
        Self {
            registers: [0; DWARF_ORDER.len()],
            at: 0,
            base: 0,
            len: 0,
            bytes: [0; DEEP_CAPACITY],
        }
    }

    /// Returns the number of bytes of the stack.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Copies the registers, and the stack up to the mark. Async-signal-safe.
    pub(super) fn capture(&mut self, interrupted: &GeneralRegisters, mark: u64) {
        for (register, index) in self.registers.iter_mut().zip(DWARF_ORDER) {
            *register = interrupted[index] as u64;
        }
        self.at = os::monotonic_nanos();
        let sp = interrupted[libc::REG_RSP as usize] as u64;
        let (base, len) = StackSnapshot::range(sp, mark);
        self.base = base;
        self.len = os::read_process_memory(base, self.bytes.get_mut(..len).unwrap_or_default());
    }

    /// Copies the sample to a snapshot, as much as fits. Returns the number of bytes of the stack.
    pub(super) fn copy_to(&self, stack: &mut StackSnapshot, mark: u64) -> usize {
        stack.registers = Registers::default();
        for (number, value) in self.registers.iter().enumerate() {
            stack.registers.set(number, Some(*value));
        }
        stack.mark = mark;
        stack.at = self.at;
        stack.fill(self.base, |bytes| {
            let len = self.len.min(bytes.len());
            bytes[..len].copy_from_slice(&self.bytes[..len]);
            len
        })
    }
}
