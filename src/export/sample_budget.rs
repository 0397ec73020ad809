//! How many samples one flush hands over.
//!
//! Histograms of the `metrics` facade buffer every sample until their exporter's upkeep runs: 16
//! bytes each in metrics-exporter-prometheus. The counters of a shard hold any number of samples in
//! the same space, so what an exporter cannot take yet waits there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::state::TokenBucket;

/// The number of samples that may be handed over, refilled over time.
#[derive(Debug)]
pub(super) struct SampleBudget(TokenBucket);

/// The number of samples that one flush hands over, of those that are pending.
#[derive(Clone, Copy, Debug)]
pub(super) struct SampleQuota {
    allowed: u64,
    pending: u64,
}

/// Whether the process-wide recorder drains itself, as that of `prometheus::serve` does.
///
/// Relaxed: a flush that does not see it yet hands over fewer samples.
static RECORDER_DRAINS: AtomicBool = AtomicBool::new(false);

/// Declares that the process-wide recorder drains itself, so that it takes any number of samples.
#[cfg(feature = "prometheus")]
pub(crate) fn set_recorder_drains() {
    RECORDER_DRAINS.store(true, Ordering::Relaxed);
}

impl SampleBudget {
    /// The samples of five seconds, the exporter's upkeep period, take 6 MiB.
    const PER_SECOND: f64 = 64_000.0;
    const CAPACITY: f64 = 64_000.0;
    /// A backlog that the regular rate cannot clear in this time is handed over faster, in
    /// proportion to its size: memory is preferred to outdated values. Ten million polls of
    /// requests that wait are some twenty million samples, of which less than 8 MiB are then
    /// buffered at once. A sample that is alone in its bucket, such as a stall, never waits for it.
    const MAX_BACKLOG_SECONDS: f64 = 240.0;

    /// Creates a full budget. `now` is the time since an arbitrary moment.
    pub(super) fn new(now: Duration) -> Self {
        Self(TokenBucket::new(Self::CAPACITY, now))
    }

    /// Returns the quota of a flush that finds `pending` samples.
    pub(super) fn quota(&mut self, now: Duration, pending: u64) -> SampleQuota {
        if RECORDER_DRAINS.load(Ordering::Relaxed) {
            return SampleQuota::unlimited();
        }
        let per_second = Self::PER_SECOND.max(pending as f64 / Self::MAX_BACKLOG_SECONDS);
        self.0.refill(per_second, per_second.max(Self::CAPACITY), now);
        SampleQuota::new(self.0.take_up_to(pending as f64) as u64, pending)
    }
}

impl SampleQuota {
    pub(super) fn unlimited() -> Self {
        Self { allowed: 1, pending: 1 }
    }

    pub(super) fn new(allowed: u64, pending: u64) -> Self {
        Self { allowed, pending }
    }

    /// Returns how many of the `count` samples of a bucket may be handed over: all, or the same
    /// share of every bucket, but at least one.
    pub(super) fn share(&self, count: u64) -> u64 {
        if self.allowed >= self.pending {
            return count;
        }
        let share = u128::from(count) * u128::from(self.allowed) / u128::from(self.pending);
        (share as u64).max(1).min(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exporter_that_drains_every_five_seconds_buffers_less_than_8_mib() {
        let flush_period = Duration::from_millis(250);
        let mut budget = SampleBudget::new(Duration::ZERO);
        let (mut pending, mut buffered, mut most) = (20_000_000_u64, 0, 0);
        let mut flushes = 0;
        while pending > 0 {
            flushes += 1;
            let quota = budget.quota(flush_period * flushes, pending);
            let sent = quota.allowed.min(pending);
            pending -= sent;
            buffered += sent;
            most = most.max(buffered);
            if flushes % 20 == 0 {
                buffered = 0;
            }
        }
        assert!(most * 33 / 2 < 8 << 20, "{most} samples at once");
        assert!(flushes < 4 * 320, "{flushes} flushes");
    }

    #[test]
    fn a_few_samples_are_handed_over_at_once() {
        let quota = SampleBudget::new(Duration::ZERO).quota(Duration::ZERO, 1_000);
        assert_eq!(quota.allowed, 1_000);
    }
}
