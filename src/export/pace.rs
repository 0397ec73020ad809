//! How many samples are handed over at once.
//!
//! Histograms of the `metrics` facade keep each sample until their exporter's upkeep runs, 16 bytes apiece in
//! metrics-exporter-prometheus. Cells hold any number of samples in the same space, so what an exporter cannot take yet waits there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What may be handed over in one flush.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    allowed: u64,
    pending: u64,
}

/// How much of a minute's worth has been handed over.
#[derive(Debug)]
pub(super) struct Allowance {
    tokens: f64,
}

/// Whether the process-wide recorder drains itself, as that of `prometheus::serve` does.
static RECORDER_DRAINS: AtomicBool = AtomicBool::new(false);

/// Says that the process-wide recorder drains itself, so that it can take any number of samples at once.
#[cfg(feature = "prometheus")]
pub(crate) fn recorder_drains() {
    RECORDER_DRAINS.store(true, Ordering::Relaxed);
}

impl Allowance {
    /// Five seconds of it, the exporter's own pace of upkeep, are 6 MiB.
    const PER_SECOND: f64 = 64_000.0;
    const BURST: f64 = 64_000.0;
    /// A backlog that the usual pace cannot take off is taken off in this time nevertheless: better memory than old figures. Of ten
    /// million polls of requests that wait, some twenty million samples, that is still less than 8 MiB at once. A sample that is alone
    /// in its bucket, as a stall is, never waits for it.
    const PATIENCE: f64 = 240.0;

    pub(super) fn new() -> Self {
        Self { tokens: Self::BURST }
    }

    /// The pace of a flush that comes `since` the last one and finds `pending` samples.
    pub(super) fn pace(&mut self, since: Duration, pending: u64) -> Pace {
        if RECORDER_DRAINS.load(Ordering::Relaxed) {
            return Pace::unlimited();
        }
        let per_second = Self::PER_SECOND.max(pending as f64 / Self::PATIENCE);
        self.tokens = (self.tokens + since.as_secs_f64() * per_second).min(per_second.max(Self::BURST));
        let allowed = self.tokens.min(pending as f64);
        self.tokens -= allowed;
        Pace::of(allowed as u64, pending)
    }
}

impl Pace {
    pub(super) fn unlimited() -> Self {
        Self { allowed: 1, pending: 1 }
    }

    pub(super) fn of(allowed: u64, pending: u64) -> Self {
        Self { allowed, pending }
    }

    /// The share of `count` pending samples that may go now: all, or the same part of every bucket, but one at least.
    pub(super) fn share(&mut self, count: u64) -> u64 {
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
    fn an_exporter_that_drains_every_five_seconds_holds_less_than_8_mib() {
        let mut allowance = Allowance::new();
        let (mut pending, mut held, mut most) = (20_000_000_u64, 0, 0);
        let mut quarters = 0;
        while pending > 0 {
            let pace = allowance.pace(Duration::from_millis(250), pending);
            let sent = pace.allowed.min(pending);
            pending -= sent;
            held += sent;
            most = most.max(held);
            quarters += 1;
            if quarters % 20 == 0 {
                held = 0;
            }
        }
        assert!(most * 33 / 2 < 8 << 20, "{most} samples at once");
        assert!(quarters < 4 * 320, "{quarters} quarters of a second");
    }

    #[test]
    fn a_little_goes_at_once() {
        let pace = Allowance::new().pace(Duration::ZERO, 1_000);
        assert_eq!(pace.allowed, 1_000);
    }
}
