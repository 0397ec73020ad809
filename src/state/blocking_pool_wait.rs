//! For how long `spawn_blocking` has been waiting for a thread, and when that is reported.

use crate::sync::{AtomicU64, Ordering};

/// The wait of the probe of the blocking pool. Relaxed: each word is valid by itself.
#[derive(Debug, Default)]
pub(crate) struct BlockingPoolWait {
    /// Since when the probe has been waiting, in ticks; 0 if it does not. Written by the probe.
    since: AtomicU64,
    /// The age at which the next report is due, in ticks. Written by the thread that reports.
    report_age: AtomicU64,
}

impl BlockingPoolWait {
    /// Records that the probe waits from a moment on, in ticks.
    pub(crate) fn begin(&self, since: u64) {
        self.since.store(since, Ordering::Relaxed);
    }

    /// Records that the probe does not wait any more.
    pub(crate) fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// Returns for how long the probe has been waiting, in ticks, if that is to be reported: at
    /// `first` and each time it has doubled.
    pub(crate) fn due(&self, first: u64, now: u64) -> Option<u64> {
        let since = self.since.load(Ordering::Relaxed);
        let age = now.saturating_sub(since);
        (since != 0 && age >= first && age >= self.report_age.load(Ordering::Relaxed))
            .then_some(age)
    }

    /// Schedules the next report, after one at an age. Ages below `first` start over.
    pub(crate) fn set_reported(&self, age: u64) {
        self.report_age.store(age.saturating_mul(2), Ordering::Relaxed);
    }

    /// Starts over if the probe does not wait.
    pub(crate) fn reset_if_idle(&self) {
        if self.since.load(Ordering::Relaxed) == 0 {
            self.report_age.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_due_at_the_first_age_and_at_each_doubling() {
        let wait = BlockingPoolWait::default();
        assert_eq!(wait.due(100, 1_000), None);
        wait.begin(1_000);
        assert_eq!([wait.due(100, 1_099), wait.due(100, 1_100)], [None, Some(100)]);
        wait.set_reported(100);
        assert_eq!([wait.due(100, 1_199), wait.due(100, 1_250)], [None, Some(250)]);
        wait.set_reported(250);
        wait.reset_if_idle();
        assert_eq!(wait.due(100, 1_300), None);
        wait.end();
        wait.reset_if_idle();
        wait.begin(2_000);
        assert_eq!(wait.due(100, 2_100), Some(100), "another wait");
    }
}
