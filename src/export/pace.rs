//! When all routes are handed over.

use std::time::{Duration, Instant};

/// Once a second, or less often if it takes more than a certain share of a CPU.
#[derive(Debug, Default)]
pub(super) struct Pace {
    due_at: Option<Instant>,
}

impl Pace {
    /// A little less than a second, so that the flush after a second is not too early.
    const MIN_PERIOD: Duration = Duration::from_millis(900);
    const MAX_PERIOD: Duration = Duration::from_secs(5);
    /// The inverse of the share: 5 ms a second.
    const PERIOD_PER_CPU_TIME: u32 = 200;

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due_at.is_none_or(|due_at| now >= due_at)
    }

    /// Makes it due, whenever it was handed over last.
    pub(super) fn reset(&mut self) {
        self.due_at = None;
    }

    /// Records the CPU time of a flush of all routes that began at `start`.
    pub(super) fn record(&mut self, start: Instant, cpu_time: Duration) {
        let period = cpu_time.saturating_mul(Self::PERIOD_PER_CPU_TIME);
        self.due_at = Some(start + period.clamp(Self::MIN_PERIOD, Self::MAX_PERIOD));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_period_grows_with_the_cpu_time_within_bounds() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert!(pace.is_due(start));
        for (cpu_millis, period_millis) in [(0, 900), (4, 900), (10, 2_000), (60, 5_000)] {
            pace.record(start, Duration::from_millis(cpu_millis));
            let due_at = start + Duration::from_millis(period_millis);
            assert!(!pace.is_due(due_at - Duration::from_millis(1)), "{cpu_millis}");
            assert!(pace.is_due(due_at), "{cpu_millis}");
        }
        pace.reset();
        assert!(pace.is_due(start));
    }
}
