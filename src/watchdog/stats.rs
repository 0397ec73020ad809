use std::time::Duration;

use crate::os::Clock;
use crate::shard::{BucketBounds, Histogram, HistogramSnapshot};
use crate::sync::{AtomicU64, Ordering};

/// The watchdog's own metrics. Written by the watchdog.
#[derive(Debug, Default)]
pub(crate) struct WatchdogStats {
    /// Relaxed: a count by itself.
    scans: AtomicU64,
    late: Histogram,
}

impl WatchdogStats {
    /// Returns the number of scans.
    pub(crate) fn scans(&self) -> u64 {
        self.scans.load(Ordering::Relaxed)
    }

    /// Returns by how much the watchdog's wake-ups were late.
    pub(crate) fn late(&self) -> HistogramSnapshot {
        let mut late = HistogramSnapshot::default();
        self.late.read_into(&mut late);
        late
    }

    pub(super) fn count_scan(&self) {
        self.scans.store(self.scans() + 1, Ordering::Relaxed);
    }

    pub(super) fn add_late(&self, clock: &Clock, bounds: &BucketBounds, late: Duration) {
        if !late.is_zero() {
            self.late.add(bounds, clock.ticks(late));
        }
    }
}
