//! Poll-duration thresholds, in ticks.

use crate::sync::{AtomicU64, Ordering};

/// Aligned so that nothing else is written on the cache line that every poll reads. Relaxed: both
/// are single values, and a poll that ends during a change may use either.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Thresholds {
    stall: AtomicU64,
    fast_path: AtomicU64,
}

impl Thresholds {
    /// Returns the stall threshold.
    #[inline]
    pub(crate) fn stall(&self) -> u64 {
        self.stall.load(Ordering::Relaxed)
    }

    /// Returns the duration up to which a poll is in the first bucket and is not a stall, so that
    /// one comparison decides both.
    #[inline]
    pub(crate) fn fast_path(&self) -> u64 {
        self.fast_path.load(Ordering::Relaxed)
    }

    /// Sets the stall threshold; `first_bound` is the upper bound of the first bucket.
    pub(crate) fn set_stall(&self, stall: u64, first_bound: u64) {
        self.stall.store(stall, Ordering::Relaxed);
        self.fast_path.store(stall.min(first_bound), Ordering::Relaxed);
    }
}
