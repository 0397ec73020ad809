//! Which worker the current thread is, also with versions of tokio that do not say it.
//!
//! `tokio::runtime::worker_index` exists since tokio 1.54. Before, two observations take its place:
//!
//! - A worker that polls a task keeps the waker of a task that yields until the tasks that are
//!   ready have run. Any thread that is no worker wakes it at once, also one that has handed off
//!   its worker.
//! - While a worker polls a task, its counters do not change, and do not say that it is parked. The
//!   thread is the worker of which this is true, once it is true of one only.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeFlavor, RuntimeMetrics};

use super::MonitorState;
use super::worker_counters::{is_parked, worker_counters};
use crate::os::Tid;
use crate::shard::Shard;
use crate::sync::{AtomicBool, Ordering};

/// The counters of each worker.
pub(crate) type AllCounters = Box<[Option<[u64; 2]>]>;

/// How long the current thread waits for the other workers to park or to count something, times one
/// to five: two workers that wait for each other must not give up at the same time. Not a power of
/// two, because on some systems only every fourth number is a thread's.
const WAIT: Duration = Duration::from_micros(20);

/// What is known of the current thread at the end of a long poll.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerAtEnd {
    /// Which worker of the watched runtime it is, or was before it has handed it off in this poll.
    pub(crate) worker: Option<usize>,
    /// Whether it is or was a worker, of whichever runtime. Others, such as the threads of the
    /// blocking pool, delay no task by a long poll.
    pub(crate) is_on_worker: bool,
    /// Whether it is a worker of the watched runtime, though it is not known which.
    pub(crate) is_unknown_worker: bool,
    /// Whether it has handed off the worker in this poll, if that is certain.
    pub(crate) has_handed_off: Option<bool>,
}

impl MonitorState {
    /// Records in a shard which worker of the watched runtime the current thread is, and returns
    /// it. For a thread that has polled a whole batch of tasks, so that its worker has counted
    /// something, `before` has the counters from before that.
    pub(crate) fn update_worker_index(
        &self,
        shard: &Shard,
        before: Option<&AllCounters>,
    ) -> Option<usize> {
        let (worker, is_unknown) = self.current_worker(before);
        self.set_worker(shard, worker, is_unknown);
        worker
    }

    /// Records in the current thread's shard which worker it is, or that it is one that is not
    /// known.
    pub(crate) fn set_worker(&self, shard: &Shard, worker: Option<usize>, is_unknown: bool) {
        let was_worker = shard.worker().is_some() || shard.is_unknown_worker();
        shard.set_worker(worker);
        shard.set_unknown_worker(is_unknown);
        if !was_worker && (is_unknown || worker.is_some()) {
            self.worker_threads.count_new_worker();
        }
        if is_unknown {
            self.worker_threads.add_unknown();
        }
        if let Some(worker) = worker {
            self.worker_threads.set(worker, Tid::current(), self.clock.now());
        }
    }

    /// Returns which worker of the watched runtime the current thread is, and otherwise whether it
    /// is one that is not known.
    fn current_worker(&self, before: Option<&AllCounters>) -> (Option<usize>, bool) {
        if !self.is_in_runtime() {
            return (None, false);
        }
        match TokioWorkerIndex::of_current_thread() {
            TokioWorkerIndex::Known(worker) => (worker, false),
            TokioWorkerIndex::Unavailable if keeps_wakers() => {
                let found = self.find_worker(before, false);
                (found, found.is_none())
            }
            TokioWorkerIndex::Unavailable => (None, false),
        }
    }

    /// Returns what is known of the current thread, whose shard this is, at the end of a long poll
    /// that began at `start`.
    pub(crate) fn worker_at_end(&self, shard: &Shard, start: u64) -> WorkerAtEnd {
        let is_in_runtime = self.is_in_runtime();
        let (worker, is_on_worker, has_handed_off) = match TokioWorkerIndex::of_current_thread() {
            TokioWorkerIndex::Known(worker) => {
                return WorkerAtEnd {
                    worker: worker.filter(|_| is_in_runtime),
                    is_on_worker: worker.is_some(),
                    is_unknown_worker: false,
                    has_handed_off: None,
                };
            }
            TokioWorkerIndex::Unavailable if !is_in_runtime => (None, keeps_wakers(), None),
            TokioWorkerIndex::Unavailable if keeps_wakers() => {
                (self.find_worker(None, true), true, Some(false))
            }
            TokioWorkerIndex::Unavailable => {
                self.worker_threads.add_hand_off();
                let worker = self.worker_before_hand_off(shard, start);
                let was_worker = worker.is_some() || shard.is_unknown_worker();
                (worker, was_worker, was_worker.then_some(true))
            }
        };
        let is_unknown_worker = worker.is_none() && has_handed_off == Some(false);
        WorkerAtEnd { worker, is_on_worker, is_unknown_worker, has_handed_off }
    }

    /// Returns the worker that the current thread had handed off during a poll. If another thread
    /// had become that worker before the poll, the hand-off is older.
    fn worker_before_hand_off(&self, shard: &Shard, start: u64) -> Option<usize> {
        let (threads, thread) = (&self.worker_threads, Tid::current());
        shard.worker().filter(|&worker| {
            threads.thread(worker) == Some(thread) || threads.is_taken_over(worker, thread, start)
        })
    }

    /// Returns the counters of each worker of the watched runtime.
    pub(crate) fn worker_counters(&self) -> AllCounters {
        let metrics = self.runtime.metrics();
        (0..metrics.num_workers()).map(|worker| worker_counters(&metrics, worker)).collect()
    }

    fn is_in_runtime(&self) -> bool {
        Handle::try_current().is_ok_and(|current| current.id() == self.runtime.id())
    }

    /// Finds out which worker the current thread is, which has not handed it off. What it was found
    /// to be before counts unless it is refuted, or workers have been handed off; with
    /// `is_careful`, it is tried for longer to refute it.
    fn find_worker(&self, before: Option<&AllCounters>, is_careful: bool) -> Option<usize> {
        if self.runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
            return Some(0);
        }
        let (metrics, thread) = (self.runtime.metrics(), Tid::current());
        let mut candidates = Candidates::new(&metrics, before);
        let known = self.worker_threads.worker(thread);
        if is_careful || known.is_none_or(|known| !candidates.contains(known)) {
            let factor = 1 + (thread.0 % 5) as u32;
            candidates.wait_for_others(WAIT * factor);
        }
        if let Some(refuted) = known.filter(|&known| !candidates.contains(known)) {
            self.worker_threads.forget(refuted, thread);
        }
        let is_believed =
            |&known: &usize| !self.worker_threads.has_hand_offs() && candidates.contains(known);
        candidates.only().or_else(|| known.filter(is_believed))
    }
}

/// The workers that the current thread may be, and their counters.
struct Candidates<'a> {
    metrics: &'a RuntimeMetrics,
    workers: Vec<(usize, [u64; 2])>,
}

impl<'a> Candidates<'a> {
    /// All that are not parked, and whose counters have changed since `before`.
    fn new(metrics: &'a RuntimeMetrics, before: Option<&AllCounters>) -> Self {
        let has_changed = |&(worker, now): &(usize, [u64; 2])| {
            before.is_none_or(|before| before.get(worker) != Some(&Some(now)))
        };
        let workers = (0..metrics.num_workers())
            .filter(|&worker| !is_parked(metrics, worker))
            .filter_map(|worker| Some((worker, worker_counters(metrics, worker)?)))
            .filter(has_changed)
            .collect();
        Self { metrics, workers }
    }

    /// Waits for all but one to park or to count something.
    fn wait_for_others(&mut self, wait: Duration) {
        let start = Instant::now();
        while self.workers.len() > 1 && start.elapsed() < wait {
            std::hint::spin_loop();
            let metrics = self.metrics;
            self.workers.retain(|&(worker, now)| worker_counters(metrics, worker) == Some(now));
        }
    }

    fn contains(&self, worker: usize) -> bool {
        self.workers.iter().any(|&(candidate, _)| candidate == worker)
    }

    fn only(&self) -> Option<usize> {
        match self.workers[..] {
            [(worker, _)] => Some(worker),
            _ => None,
        }
    }
}

/// Returns whether the current thread keeps the waker of a task that yields, as a worker does.
fn keeps_wakers() -> bool {
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            // Relaxed: read by the thread that may set it, or not at all.
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let is_woken = Arc::new(Flag(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&is_woken));
    let _pending = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
    !is_woken.0.load(Ordering::Relaxed)
}

/// What `tokio::runtime::worker_index` returns, if it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokioWorkerIndex {
    Known(Option<usize>),
    Unavailable,
}

/// Takes the place of what tokio's function returns.
struct Unavailable;

impl TokioWorkerIndex {
    fn of_current_thread() -> Self {
        // Shadows the function of this module, if tokio has one of this name.
        #[allow(unused_imports, clippy::wildcard_imports)]
        use tokio::runtime::*;
        TokioWorkerIndex::from(worker_index())
    }
}

/// Stands in for tokio's function where there is none.
#[allow(dead_code)]
fn worker_index() -> Unavailable {
    Unavailable
}

impl From<Option<usize>> for TokioWorkerIndex {
    fn from(worker: Option<usize>) -> Self {
        Self::Known(worker)
    }
}

impl From<Unavailable> for TokioWorkerIndex {
    fn from(Unavailable: Unavailable) -> Self {
        Self::Unavailable
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests;
