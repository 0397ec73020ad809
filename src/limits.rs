//! From when on a poll is more than one of many short ones.

use crate::sync::{AtomicU64, Ordering};

/// In ticks. Aligned so that nobody writes to the cache line that each poll reads.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Limits {
    stall: AtomicU64,
    /// A poll no longer than this is in the first bucket and no stall: one comparison for both.
    quick: AtomicU64,
}

impl Limits {
    /// The stall threshold.
    #[inline]
    pub(crate) fn stall(&self) -> u64 {
        self.stall.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn quick(&self) -> u64 {
        self.quick.load(Ordering::Relaxed)
    }

    /// Sets the stall threshold; `first` is the bound of the first bucket.
    pub(crate) fn set_stall(&self, stall: u64, first: u64) {
        self.stall.store(stall, Ordering::Relaxed);
        self.quick.store(stall.min(first), Ordering::Relaxed);
    }
}
