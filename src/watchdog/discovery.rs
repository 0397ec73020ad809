//! Finds out which thread runs which worker, by small tasks on them.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::worker_state::POLLS_PER_BATCH;
use crate::request::local_handle;
use crate::state::{AllCounters, MonitorState};
use crate::sync::Ordering;

/// The rounds in which workers are discovered: all of the first two seconds, then one a second.
const FIRST_ROUNDS: u32 = 16;
const ROUNDS_BETWEEN: u32 = 8;
/// How often a task wakes up, together with the others, so that idle workers steal some of them.
const WAKES: u32 = 8;
/// The same while the watchdog is idle, so that an idle process is rarely woken.
const IDLE_WAKES: u32 = 1;
const PAUSE: Duration = Duration::from_millis(1);
/// How long a task may take to observe a batch.
const LONGEST_BATCH: Duration = Duration::from_millis(100);

/// Finds the threads of the workers that are not known, so that they can be sampled if unmeasured
/// code occupies them.
///
/// Spawns small tasks, which idle workers steal from each other. Called by a task inside the runtime,
/// at its start and in each round of the lag probe.
pub(crate) fn discover_workers(monitor: &Arc<MonitorState>, round: u32, is_idle: bool) {
    record_own_poll(monitor);
    if round >= FIRST_ROUNDS && round % ROUNDS_BETWEEN != 0 {
        return;
    }
    let wakes = if is_idle { IDLE_WAKES } else { WAKES };
    for _ in 0..monitor.worker_threads.unknown() {
        let monitor = Arc::clone(monitor);
        let _detached = tokio::spawn(async move {
            for wake in 1..=wakes {
                if record_own_poll(&monitor) == OwnPoll::UnknownWorker {
                    observe_batch(&monitor).await;
                }
                if wake == wakes || monitor.worker_threads.unknown() == 0 {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
}

/// On which thread a task of the monitor was polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnPoll {
    Other,
    /// A worker of the watched runtime, though it is not known which.
    UnknownWorker,
}

/// Records that a task of the monitor is polled on the current thread, which may be a worker.
pub(super) fn record_own_poll(monitor: &Arc<MonitorState>) -> OwnPoll {
    record_own_poll_since(monitor, None)
}

fn record_own_poll_since(monitor: &Arc<MonitorState>, before: Option<&AllCounters>) -> OwnPoll {
    let handle = local_handle(monitor);
    if let Some(worker) = monitor.update_worker_index(handle.shard(), before) {
        monitor.worker_threads.count_own_poll(worker);
    }
    if handle.shard().is_unknown_worker() { OwnPoll::UnknownWorker } else { OwnPoll::Other }
}

/// Has the current thread poll so many tasks that its worker must count something, which tells it
/// from a worker that is occupied. On a busy runtime that takes too long.
async fn observe_batch(monitor: &Arc<MonitorState>) {
    let in_progress = &monitor.is_observing_batch;
    // Relaxed: no other memory belongs to it.
    if in_progress.swap(true, Ordering::Relaxed) {
        return;
    }
    let (start, before) = (Instant::now(), monitor.worker_counters());
    let thread = thread::current().id();
    let mut polls = 0;
    while thread::current().id() == thread && start.elapsed() < LONGEST_BATCH {
        if polls > POLLS_PER_BATCH {
            record_own_poll_since(monitor, Some(&before));
            break;
        }
        tokio::task::yield_now().await;
        polls += 1;
    }
    in_progress.store(false, Ordering::Relaxed);
}
