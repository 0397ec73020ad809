//! A copy of the part of a thread's stack that lies inside a measured poll, with the registers it belongs to.

use std::fmt;

/// How much is copied at most. From the leaf to the meter it is 1 to 3 KiB in release builds and 7 to 9 KiB in debug builds.
pub(crate) const MOST: usize = 64 * 1024;
/// How much is copied beyond the meter's mark, so that its own frame is whole.
pub(crate) const MARGIN: u64 = 1024;
/// How much is copied below the stack pointer: an epilogue may have popped a register that the tables still look for there.
pub(crate) const RED_ZONE: u64 = 128;

/// A thread's registers, by their DWARF numbers; those that are not known are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registers([Option<u64>; 17]);

/// The copy.
pub(crate) struct RawStack {
    pub(crate) registers: Registers,
    /// An address inside the meter's own frame: frames whose canonical frame address is not above it lie inside the poll.
    /// `u64::MAX` where there is no meter, and the whole stack counts.
    pub(crate) mark: u64,
    /// When it was copied, in nanoseconds on the monotonic clock.
    pub(crate) at: u64,
    /// The address that the first copied byte had.
    base: u64,
    len: usize,
    bytes: Box<[u8]>,
}

// === impl Registers ===

impl Registers {
    pub(crate) const RAX: usize = 0;
    pub(crate) const RSP: usize = 7;
    pub(crate) const PC: usize = 16;

    /// What is known of a thread that is asleep in the kernel.
    pub(crate) fn of_sleeping(pc: u64, sp: u64) -> Self {
        let mut registers = Self::default();
        registers.set(Self::PC, Some(pc));
        registers.set(Self::RSP, Some(sp));
        registers
    }

    pub(crate) fn get(&self, register: usize) -> Option<u64> {
        self.0.get(register).copied().flatten()
    }

    pub(crate) fn set(&mut self, register: usize, value: Option<u64>) {
        if let Some(place) = self.0.get_mut(register) {
            *place = value;
        }
    }
}

// === impl RawStack ===

impl RawStack {
    /// Memory for a copy. It takes up room only where it is written to.
    pub(crate) fn empty() -> Self {
        Self {
            registers: Registers::default(),
            mark: 0,
            at: 0,
            base: 0,
            len: 0,
            bytes: vec![0; MOST].into_boxed_slice(),
        }
    }

    /// The range of addresses worth copying for a stack pointer.
    pub(crate) fn range(sp: u64, mark: u64) -> (u64, usize) {
        let base = sp.saturating_sub(RED_ZONE);
        let end = mark.saturating_add(MARGIN);
        let wanted = usize::try_from(end.saturating_sub(base)).unwrap_or(MOST);
        (base, wanted.min(MOST))
    }

    /// Takes over what `copy` writes to the buffer, as much as it says it wrote.
    pub(crate) fn fill(&mut self, base: u64, copy: impl FnOnce(&mut [u8]) -> usize) -> usize {
        self.base = base;
        self.len = copy(&mut self.bytes).min(MOST);
        self.len
    }

    /// The eight bytes at an address, where they were copied.
    pub(crate) fn word(&self, address: u64) -> Option<u64> {
        let start = usize::try_from(address.checked_sub(self.base)?).ok()?;
        let bytes = self.bytes[..self.len].get(start..start.checked_add(8)?)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    }

    /// The first address that was not copied.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.len as u64
    }
}

impl fmt::Debug for RawStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawStack").field("base", &self.base).field("len", &self.len).finish_non_exhaustive()
    }
}
