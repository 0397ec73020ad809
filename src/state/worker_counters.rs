use tokio::runtime::RuntimeMetrics;

/// Returns tokio's counters of a worker: the number of parks and unparks, which is odd while it is
/// parked, and its busy time in nanoseconds.
///
/// Tokio updates them only when the worker parks, and every 61 tasks.
#[cfg(target_has_atomic = "64")]
pub(crate) fn worker_counters(metrics: &RuntimeMetrics, worker: usize) -> Option<[u64; 2]> {
    use crate::os::duration_nanos;

    (worker < metrics.num_workers()).then(|| {
        let busy = duration_nanos(metrics.worker_total_busy_duration(worker));
        [metrics.worker_park_unpark_count(worker), busy]
    })
}

#[cfg(not(target_has_atomic = "64"))]
pub(crate) fn worker_counters(_: &RuntimeMetrics, _: usize) -> Option<[u64; 2]> {
    None
}

/// Returns whether a worker is parked.
pub(crate) fn is_parked(metrics: &RuntimeMetrics, worker: usize) -> bool {
    worker_counters(metrics, worker).is_some_and(|[parks, _]| parks % 2 == 1)
}
