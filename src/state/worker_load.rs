//! What tokio counts of each worker, compared with the watchdog's last scan.

use std::time::Duration;

use tokio::runtime::RuntimeMetrics;

use super::worker_counters::worker_counters;
use crate::os::duration_nanos;
use crate::sync::{AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct WorkerLoad {
    metrics: RuntimeMetrics,
    scanned: Box<[ScannedWorker]>,
}

/// What the scans have found of one worker. Relaxed: of a change that is read in part, an older
/// value is taken for a newer one, or the other way round.
#[derive(Debug, Default)]
struct ScannedWorker {
    /// The busy time at the last scan, in nanoseconds.
    busy: AtomicU64,
    /// The number of parks and unparks at the last scan.
    parks: AtomicU64,
    /// When a scan found that number first, in ticks.
    since: AtomicU64,
}

impl WorkerLoad {
    /// The time in which a worker has been busy with one poll, or with many.
    const LONG: Duration = Duration::from_millis(5);

    pub(super) fn new(metrics: RuntimeMetrics) -> Self {
        let scanned = (0..metrics.num_workers()).map(|_| ScannedWorker::default()).collect();
        Self { metrics, scanned }
    }

    /// Records the counters of a worker. Called by the watchdog in each scan.
    pub(crate) fn record_scan(&self, worker: usize, [parks, busy]: [u64; 2], now: u64) {
        let Some(scanned) = self.scanned.get(worker) else { return };
        scanned.busy.store(busy, Ordering::Relaxed);
        if scanned.parks.load(Ordering::Relaxed) != parks {
            scanned.since.store(now, Ordering::Relaxed);
            scanned.parks.store(parks, Ordering::Relaxed);
        }
    }

    /// Returns whether a worker has been busy for long since the last scan, as far as it has
    /// counted that. It may just have ended a long poll of unmeasured code.
    pub(crate) fn is_long(&self, worker: usize) -> bool {
        let Some(([_, busy], scanned)) = self.worker(worker) else { return false };
        busy.saturating_sub(scanned.busy.load(Ordering::Relaxed)) >= duration_nanos(Self::LONG)
    }

    /// Returns since when a worker has polled tasks without parking, in ticks, if a scan has seen
    /// that.
    pub(crate) fn busy_since(&self, worker: usize) -> Option<u64> {
        let ([parks, _], scanned) = self.worker(worker)?;
        let is_busy = parks % 2 == 0 && scanned.parks.load(Ordering::Relaxed) == parks;
        is_busy.then(|| scanned.since.load(Ordering::Relaxed))
    }

    fn worker(&self, worker: usize) -> Option<([u64; 2], &ScannedWorker)> {
        Some((worker_counters(&self.metrics, worker)?, self.scanned.get(worker)?))
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_behind_after_a_long_task_until_the_next_scan() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let load = WorkerLoad::new(runtime.metrics());
        assert!(!load.is_long(0));
        let task = async { std::thread::sleep(WorkerLoad::LONG) };
        runtime.block_on(async { tokio::spawn(task).await.unwrap() });
        assert!(load.is_long(0));
        load.record_scan(0, worker_counters(&load.metrics, 0).unwrap(), 100);
        assert!(!load.is_long(0));
        assert!(!load.is_long(1), "there is no such worker");
    }

    #[test]
    fn a_worker_is_busy_since_the_scan_that_has_seen_its_last_unpark() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let load = WorkerLoad::new(runtime.metrics());
        let [parks, busy] = worker_counters(&load.metrics, 0).unwrap();
        assert_eq!(parks % 2, 0, "it has never parked");
        load.record_scan(0, [parks + 2, busy], 100);
        assert_eq!(load.busy_since(0), None, "not seen yet");
        load.record_scan(0, [parks, busy], 200);
        load.record_scan(0, [parks, busy], 300);
        assert_eq!((load.busy_since(0), load.busy_since(1)), (Some(200), None));
    }
}
