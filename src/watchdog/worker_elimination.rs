//! Finds the worker of a measured poll, with versions of tokio that do not say it.
//!
//! The counters of a worker do not change while it polls, and do not say that it is parked. If that
//! is true of one worker only, since a poll has begun, this worker is polling.

/// The changes of the workers' counters. Times are in ticks.
pub(super) struct CounterChanges {
    workers: Box<[Change]>,
    scanned_at: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Change {
    counters: Option<[u64; 2]>,
    /// The last scan before the counters changed.
    after: u64,
}

impl CounterChanges {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers: vec![Change::default(); workers].into(), scanned_at: 0 }
    }

    /// Records the counters of a worker at a scan.
    pub(super) fn record(&mut self, worker: usize, counters: [u64; 2]) {
        let Some(change) = self.workers.get_mut(worker) else { return };
        if change.counters != Some(counters) {
            *change = Change { counters: Some(counters), after: self.scanned_at };
        }
    }

    /// Ends a scan that has begun at `now`.
    pub(super) fn end_scan(&mut self, now: u64) {
        self.scanned_at = now;
    }

    /// Returns the only worker that may be inside a poll that began at `start`.
    pub(super) fn only_worker(&self, start: u64) -> Option<usize> {
        let mut workers =
            (0..self.workers.len()).filter(|&worker| self.workers[worker].may_poll_since(start));
        match (workers.next(), workers.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    }
}

impl Change {
    fn may_poll_since(&self, start: u64) -> bool {
        self.after < start && self.counters.is_some_and(|[parks, _]| parks % 2 == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two workers, after each pair of counters has been recorded, one each 10 ticks.
    fn changes(recorded: &[[[u64; 2]; 2]]) -> CounterChanges {
        let mut changes = CounterChanges::new(2);
        for counters in recorded {
            for (worker, counters) in counters.iter().enumerate() {
                changes.record(worker, *counters);
            }
            changes.end_scan(changes.scanned_at + 10);
        }
        changes
    }

    #[test]
    fn a_parked_worker_does_not_poll() {
        let changes = changes(&[[[2, 0], [2, 0]], [[2, 0], [3, 0]]]);
        assert_eq!(changes.only_worker(15), Some(0));
    }

    #[test]
    fn a_worker_that_has_counted_something_since_is_not_inside_the_poll() {
        let changes = changes(&[[[2, 0], [2, 0]], [[2, 0], [2, 0]], [[2, 0], [2, 7]]]);
        assert_eq!(changes.only_worker(5), Some(0));
        assert_eq!(changes.only_worker(25), None, "it may have counted that before the poll");
    }

    #[test]
    fn two_workers_that_may_poll_are_not_told_apart() {
        let changes = changes(&[[[2, 0], [2, 0]]]);
        assert_eq!(changes.only_worker(5), None);
    }
}
