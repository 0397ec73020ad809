use std::time::{Duration, Instant};

use tokio::runtime::RuntimeMetrics;

/// The share of the last interval in which one worker was busy.
///
/// Tokio adds the time of a poll to a worker's total when the worker parks, or after 61 polls. A
/// worker that has not parked is therefore busy, whether or not its total has changed, and what is
/// added belongs to all the time since the total changed before.
#[derive(Debug)]
pub(super) struct BusyRatio {
    last: WorkerTotals,
    /// When the total was last seen to change.
    changed_at: Instant,
    ratio: f64,
}

/// Tokio's totals of one worker at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WorkerTotals {
    busy: Duration,
    /// The number of parks and unparks, which is odd while the worker is parked.
    parks: u64,
}

impl BusyRatio {
    pub(super) fn new(metrics: &RuntimeMetrics, worker: usize) -> Self {
        Self { last: WorkerTotals::read(metrics, worker), changed_at: Instant::now(), ratio: 0.0 }
    }

    pub(super) fn get(&self) -> f64 {
        self.ratio
    }

    /// Ends an interval. The workers of a runtime that has ended are not busy.
    pub(super) fn update(&mut self, metrics: &RuntimeMetrics, worker: usize, has_ended: bool) {
        if has_ended {
            self.ratio = 0.0;
        } else {
            self.advance(WorkerTotals::read(metrics, worker), Instant::now());
        }
    }

    fn advance(&mut self, totals: WorkerTotals, now: Instant) {
        let is_parked = totals.parks % 2 == 1;
        let has_parked = is_parked || totals.parks != self.last.parks;
        let elapsed = now.saturating_duration_since(self.changed_at).as_secs_f64();
        let added = totals.busy.saturating_sub(self.last.busy).as_secs_f64();
        if !has_parked {
            self.ratio = 1.0;
        } else if elapsed > 0.0 {
            self.ratio = (added / elapsed).min(1.0);
        }
        if has_parked || totals != self.last {
            (self.last, self.changed_at) = (totals, now);
        }
    }
}

impl WorkerTotals {
    #[cfg(target_has_atomic = "64")]
    fn read(metrics: &RuntimeMetrics, worker: usize) -> Self {
        Self {
            busy: metrics.worker_total_busy_duration(worker),
            parks: metrics.worker_park_unpark_count(worker),
        }
    }

    /// Tokio does not count there; a worker counts as parked.
    #[cfg(not(target_has_atomic = "64"))]
    fn read(_: &RuntimeMetrics, _: usize) -> Self {
        Self { busy: Duration::ZERO, parks: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Advances a new ratio by totals, each of busy milliseconds and parks, seen every 250 ms, and
    /// returns the ratio at each.
    fn ratios(totals: &[(u64, u64)]) -> Vec<f64> {
        let start = Instant::now();
        let last = WorkerTotals { busy: Duration::ZERO, parks: 1 };
        let mut busy = BusyRatio { last, changed_at: start, ratio: 0.0 };
        let seen = totals.iter().zip(1_u32..).map(|(&(busy_millis, parks), interval)| {
            let totals = WorkerTotals { busy: Duration::from_millis(busy_millis), parks };
            busy.advance(totals, start + interval * Duration::from_millis(250));
            busy.get()
        });
        seen.collect()
    }

    #[test]
    fn a_worker_that_parks_is_busy_for_what_is_added() {
        assert_eq!(ratios(&[(50, 9), (50, 9), (175, 11)]), [0.2, 0.0, 0.5]);
    }

    #[test]
    fn a_worker_that_does_not_park_is_busy_while_its_total_stands_still() {
        // Unparked, then 61 polls of 10 ms between two updates.
        let seen = ratios(&[(0, 2), (0, 2), (0, 2), (610, 2), (610, 2), (610, 2), (1_220, 2)]);
        assert_eq!(seen[1..], [1.0; 6]);
    }

    #[test]
    fn what_one_stall_adds_is_not_counted_as_one_interval() {
        let seen = ratios(&[(0, 2), (0, 2), (0, 2), (0, 2), (1_000, 3), (1_000, 3)]);
        assert_eq!(seen[1..], [1.0, 1.0, 1.0, 1.0, 0.0]);
    }
}
