use crate::sync::{AtomicU64, Ordering};

/// Since when each worker has polled tasks without parking. Written by the watchdog.
#[derive(Debug)]
pub(crate) struct WorkerParks(Box<[WorkerPark]>);

/// Relaxed: of a change that is read in part, the older moment is taken for the newer one, or the
/// other way round.
#[derive(Debug, Default)]
struct WorkerPark {
    /// Tokio's number of parks and unparks.
    parks: AtomicU64,
    /// When a scan found that number first, in ticks.
    since: AtomicU64,
}

impl WorkerParks {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| WorkerPark::default()).collect())
    }

    /// Records what a scan has found.
    pub(crate) fn record(&self, worker: usize, parks: u64, now: u64) {
        let Some(entry) = self.0.get(worker) else { return };
        if entry.parks.load(Ordering::Relaxed) != parks {
            entry.since.store(now, Ordering::Relaxed);
            entry.parks.store(parks, Ordering::Relaxed);
        }
    }

    /// Returns since when a worker has had this number of parks and unparks, if a scan has seen it.
    pub(super) fn busy_since(&self, worker: usize, parks: u64) -> Option<u64> {
        let entry = self.0.get(worker)?;
        let is_busy = parks % 2 == 0 && entry.parks.load(Ordering::Relaxed) == parks;
        is_busy.then(|| entry.since.load(Ordering::Relaxed))
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_busy_since_the_scan_that_has_seen_its_last_unpark() {
        let parks = WorkerParks::new(1);
        parks.record(0, 3, 100);
        assert_eq!(parks.busy_since(0, 3), None, "it is parked");
        assert_eq!(parks.busy_since(0, 4), None, "not seen yet");
        parks.record(0, 4, 200);
        parks.record(0, 4, 300);
        assert_eq!(parks.busy_since(0, 4), Some(200));
        assert_eq!((parks.busy_since(0, 6), parks.busy_since(1, 4)), (None, None));
    }
}
