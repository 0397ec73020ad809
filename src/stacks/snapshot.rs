//! A copy of a thread's stack, with the registers that belong to it.

use std::fmt;

/// The most bytes that a buffer holds. From the leaf to the frame that calls the inner poll it is 1
/// to 3 KiB in release builds, and 7 to 9 KiB in debug builds; a whole stack is 16 to 60 KiB.
pub(crate) const CAPACITY: usize = 64 * 1024;
/// The most bytes that are copied: all of a stack of tokio's default size.
pub(crate) const DEEP_CAPACITY: usize = 2 * 1024 * 1024;
/// The bytes that are copied beyond the mark, so that the frame around it is complete.
pub(crate) const MARGIN: u64 = 1024;
/// The bytes that are copied below the stack pointer: an epilogue may have popped a register that
/// the CFI still finds there.
pub(crate) const RED_ZONE: u64 = 128;

/// The most registers that an unwinder knows, which are those of aarch64.
const MAX_REGISTERS: usize = 33;

/// A thread's registers by DWARF number; those that are not known are `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registers([Option<u64>; MAX_REGISTERS]);

#[cfg_attr(not(stacks_supported), allow(dead_code))]
pub(crate) struct StackSnapshot {
    pub(crate) registers: Registers,
    /// An address in the frame that calls the inner poll: a frame whose canonical frame address is
    /// not above it is part of the poll. `u64::MAX` if the whole stack counts.
    pub(crate) mark: u64,
    /// When it was copied, in nanoseconds on the monotonic clock.
    pub(crate) at: u64,
    /// The address of the first byte.
    base: u64,
    len: usize,
    bytes: Box<[u8]>,
}

// === impl Registers ===

impl Registers {
    pub(crate) fn get(&self, register: u16) -> Option<u64> {
        self.0.get(usize::from(register)).copied().flatten()
    }

    pub(crate) fn set(&mut self, register: u16, value: Option<u64>) {
        if let Some(place) = self.0.get_mut(usize::from(register)) {
            *place = value;
        }
    }
}

impl Default for Registers {
    fn default() -> Self {
        Self([None; MAX_REGISTERS])
    }
}

// === impl StackSnapshot ===

impl StackSnapshot {
    /// Creates an empty snapshot. Its pages take up memory only once they are written to.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            registers: Registers::default(),
            mark: 0,
            at: 0,
            base: 0,
            len: 0,
            bytes: vec![0; capacity].into_boxed_slice(),
        }
    }

    /// Returns the range to copy, for a stack pointer: its first address and its length. A stack
    /// pointer above the mark is on another stack, which is copied as a whole.
    pub(crate) fn range(sp: u64, mark: u64) -> (u64, usize) {
        let base = sp.saturating_sub(RED_ZONE);
        let mark = if sp <= mark { mark } else { u64::MAX };
        let end = mark.saturating_add(MARGIN);
        let length = usize::try_from(end.saturating_sub(base)).unwrap_or(DEEP_CAPACITY);
        (base, length.min(DEEP_CAPACITY))
    }

    /// Fills the buffer with `copy`, which returns how many bytes it has written.
    pub(crate) fn fill(&mut self, base: u64, copy: impl FnOnce(&mut [u8]) -> usize) -> usize {
        self.base = base;
        self.len = copy(&mut self.bytes).min(self.bytes.len());
        self.len
    }

    /// Returns the most bytes that it holds.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the eight bytes at an address, if they were copied.
    pub(crate) fn word(&self, address: u64) -> Option<u64> {
        let start = usize::try_from(address.checked_sub(self.base)?).ok()?;
        let bytes = self.bytes[..self.len].get(start..start.checked_add(8)?)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    }

    /// Returns the first address behind the copy.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.len as u64
    }
}

impl fmt::Debug for StackSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackSnapshot")
            .field("base", &self.base)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
