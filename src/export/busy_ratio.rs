use std::time::Duration;

use tokio::runtime::RuntimeMetrics;

/// The share of an interval in which one worker was busy.
#[derive(Debug)]
pub(super) struct BusyRatio {
    /// Tokio's total at the end of the last interval.
    total: Duration,
    ratio: f64,
}

impl BusyRatio {
    pub(super) fn new(metrics: &RuntimeMetrics, worker: usize) -> Self {
        Self { total: busy_duration(metrics, worker), ratio: 0.0 }
    }

    pub(super) fn get(&self) -> f64 {
        self.ratio
    }

    /// Ends an interval.
    pub(super) fn update(
        &mut self,
        metrics: &RuntimeMetrics,
        worker: usize,
        stall_age: Duration,
        interval: Duration,
    ) {
        self.advance(busy_duration(metrics, worker), stall_age, interval);
    }

    /// Tokio adds the time of a poll when the worker parks next: nothing during a stall, and
    /// everything at once after it. So the age of the stall fills in, and the excess is cut off.
    fn advance(&mut self, total: Duration, stall_age: Duration, interval: Duration) {
        let added = total.saturating_sub(self.total);
        self.total = total;
        let busy = added.max(stall_age.min(interval));
        self.ratio = (busy.as_secs_f64() / interval.as_secs_f64()).min(1.0);
    }
}

#[cfg(target_has_atomic = "64")]
fn busy_duration(metrics: &RuntimeMetrics, worker: usize) -> Duration {
    metrics.worker_total_busy_duration(worker)
}

#[cfg(not(target_has_atomic = "64"))]
fn busy_duration(_: &RuntimeMetrics, _: usize) -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stalled_worker_is_busy_for_the_age_of_the_stall_and_no_longer() {
        let seconds = Duration::from_secs;
        let mut busy = BusyRatio { total: seconds(5), ratio: 0.0 };
        let mut advance = |total, stall_age, interval| {
            busy.advance(total, stall_age, interval);
            busy.get()
        };
        assert_eq!(advance(seconds(5), seconds(0), seconds(1)), 0.0);
        assert_eq!(advance(seconds(5), seconds(3), seconds(1)), 1.0);
        assert_eq!(advance(seconds(15), seconds(0), seconds(1)), 1.0);
        assert_eq!(advance(seconds(15), Duration::from_millis(250), seconds(1)), 0.25);
    }
}
