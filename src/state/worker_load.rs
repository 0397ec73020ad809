//! How busy each worker has been since the watchdog's last scan. A worker of which the watchdog has
//! seen nothing may just have ended a long poll of unmeasured code.

use std::time::Duration;

use tokio::runtime::RuntimeMetrics;

use super::worker_counters::worker_counters;
use crate::os::duration_nanos;
use crate::sync::{AtomicU64, Ordering};

/// Busy times are in nanoseconds.
#[derive(Debug)]
pub(crate) struct WorkerLoad {
    metrics: RuntimeMetrics,
    /// The busy time of each worker at the last scan. Relaxed: no other memory belongs to it.
    busy_at_scan: Box<[AtomicU64]>,
}

impl WorkerLoad {
    /// The time in which a worker has been busy with one poll, or with many.
    const LONG: Duration = Duration::from_millis(5);

    pub(super) fn new(metrics: RuntimeMetrics) -> Self {
        let busy_at_scan = (0..metrics.num_workers()).map(|_| AtomicU64::new(0)).collect();
        Self { metrics, busy_at_scan }
    }

    /// Records the busy time of a worker. Called by the watchdog in each scan.
    pub(crate) fn record_scan(&self, worker: usize, busy: u64) {
        if let Some(at_scan) = self.busy_at_scan.get(worker) {
            at_scan.store(busy, Ordering::Relaxed);
        }
    }

    /// Returns whether a worker has been busy for long since the last scan, as far as it has
    /// counted that.
    pub(crate) fn is_long(&self, worker: usize) -> bool {
        let busy = worker_counters(&self.metrics, worker).map(|[_, busy]| busy);
        let at_scan = self.busy_at_scan.get(worker).map(|busy| busy.load(Ordering::Relaxed));
        busy.zip(at_scan)
            .is_some_and(|(now, then)| now.saturating_sub(then) >= duration_nanos(Self::LONG))
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
        let [_, busy] = worker_counters(&load.metrics, 0).unwrap();
        load.record_scan(0, busy);
        assert!(!load.is_long(0));
        assert!(!load.is_long(1), "there is no such worker");
    }
}
