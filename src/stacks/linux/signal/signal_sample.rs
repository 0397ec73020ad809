//! What the handler copies: the interrupted registers and the stack.

use crate::os;
use crate::stacks::linux::arch::{REGISTERS, SAVED_ORDER, SP, SavedRegisters};
use crate::stacks::snapshot::{DEEP_CAPACITY, Registers, StackSnapshot};

/// The registers and the stack of an interrupted thread.
pub(super) struct SignalSample {
    registers: [u64; REGISTERS],
    /// When it was copied, in nanoseconds on the monotonic clock.
    at: u64,
    base: u64,
    len: usize,
    bytes: [u8; DEEP_CAPACITY],
}

// === impl SignalSample ===

impl SignalSample {
    pub(super) const fn empty() -> Self {
        Self { registers: [0; REGISTERS], at: 0, base: 0, len: 0, bytes: [0; DEEP_CAPACITY] }
    }

    /// Returns the number of bytes of the stack.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Copies the registers, and the stack up to the mark. Async-signal-safe.
    pub(super) fn capture(&mut self, interrupted: &SavedRegisters, mark: u64) {
        for (register, index) in self.registers.iter_mut().zip(SAVED_ORDER) {
            *register = interrupted[index];
        }
        self.at = os::monotonic_nanos();
        let sp = interrupted[SAVED_ORDER[usize::from(SP)]];
        let (base, len) = StackSnapshot::range(sp, mark);
        self.base = base;
        self.len = os::read_process_memory(base, self.bytes.get_mut(..len).unwrap_or_default());
    }

    /// Copies the sample to a snapshot, as much as fits. Returns the number of bytes of the stack.
    pub(super) fn copy_to(&self, stack: &mut StackSnapshot, mark: u64) -> usize {
        stack.registers = Registers::default();
        for (number, value) in (0..).zip(self.registers) {
            stack.registers.set(number, Some(value));
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
