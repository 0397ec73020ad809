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
/// to four: two workers that wait for each other must not give up at the same time.
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
    /// Returns which worker of the watched runtime the current thread is, and otherwise whether it
    /// is one that is not known. For a thread that has polled a whole batch of tasks, so that its
    /// worker has counted something, `before` has the counters from before that.
    pub(super) fn current_worker(&self, before: Option<&AllCounters>) -> (Option<usize>, bool) {
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
                self.has_hand_offs.set();
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
            candidates.wait_for_others(WAIT * (1 + thread.0.unsigned_abs() % 4));
        }
        if let Some(refuted) = known.filter(|&known| !candidates.contains(known)) {
            self.worker_threads.forget(refuted, thread);
        }
        let is_believed =
            |&known: &usize| !self.has_hand_offs.is_set() && candidates.contains(known);
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
mod tests {
    use std::cell::OnceCell;
    use std::thread;

    use tokio::runtime::Runtime;

    use super::*;
    use crate::state::tests::state_of;

    /// If the import did not shadow the function of this module any more, nothing else would fail.
    /// `./x oldest-tokio` sets the variable.
    #[test]
    fn tokio_names_the_worker_unless_it_is_too_old() {
        let is_old = std::env::var_os("TOWER_STALL_TEST_OLD_TOKIO").is_some();
        let is_unavailable = TokioWorkerIndex::of_current_thread() == TokioWorkerIndex::Unavailable;
        assert_eq!(is_unavailable, is_old);
    }

    fn runtime() -> Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_time().build().unwrap()
    }

    #[test]
    fn only_a_worker_that_has_not_handed_off_its_core_keeps_wakers() {
        let runtime = runtime();
        assert!(!keeps_wakers(), "outside the runtime");
        runtime.block_on(async {
            assert!(!keeps_wakers(), "on the thread of `block_on`");
            let task =
                tokio::spawn(async { (keeps_wakers(), tokio::task::block_in_place(keeps_wakers)) });
            assert_eq!(task.await.unwrap(), (true, false));
            let handle = Handle::current();
            let on_pool = move || (keeps_wakers(), handle.block_on(async { keeps_wakers() }));
            assert_eq!(tokio::task::spawn_blocking(on_pool).await.unwrap(), (false, false));
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            assert!(keeps_wakers());
            let handle = Handle::current();
            let on_pool = move || handle.block_on(async { keeps_wakers() });
            assert!(!tokio::task::spawn_blocking(on_pool).await.unwrap());
        });
    }

    /// Finds the worker of the thread that polls a task, beside another worker that is occupied.
    async fn find(monitor: Arc<MonitorState>) -> (usize, TokioWorkerIndex) {
        for _ in 0..2_000 {
            let (thread, before) = (thread::current().id(), monitor.worker_counters());
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            if thread::current().id() == thread {
                if let Some(found) = monitor.find_worker(Some(&before), false) {
                    return (found, TokioWorkerIndex::of_current_thread());
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the worker was not found");
    }

    #[test]
    fn the_worker_that_is_found_is_the_one_that_tokio_names() {
        let runtime = runtime();
        let monitor = state_of(&runtime);
        let (release, released) = std::sync::mpsc::channel::<()>();
        let blocker = runtime.spawn(async move {
            let _ = released.recv();
            TokioWorkerIndex::of_current_thread()
        });
        for _ in 0..50 {
            let (found, named) =
                runtime.block_on(runtime.spawn(find(Arc::clone(&monitor)))).unwrap();
            if named != TokioWorkerIndex::Unavailable {
                assert_eq!(TokioWorkerIndex::Known(Some(found)), named);
            }
        }
        drop(release);
        runtime.block_on(blocker).unwrap();
    }

    thread_local! {
        static SHARD: OnceCell<Arc<Shard>> = const { OnceCell::new() };
    }

    /// Finds the worker of the current thread, and compares it with the one that tokio names:
    /// whether it is the same, if it is found.
    fn find_and_compare(monitor: &MonitorState) -> Option<bool> {
        let TokioWorkerIndex::Known(named) = TokioWorkerIndex::of_current_thread() else {
            return None;
        };
        let found = monitor.find_worker(None, true);
        SHARD.with(|shard| {
            let shard = shard.get_or_init(|| monitor.shards.lease());
            monitor.set_worker(shard, found, found.is_none());
        });
        Some(found == named).filter(|_| found.is_some())
    }

    /// Hands off its worker, sleeps and computes in turn.
    async fn work(monitor: Arc<MonitorState>, task: u32) -> Vec<bool> {
        let mut comparisons = Vec::new();
        for round in 0..400 {
            if (round * 7 + task) % 5 == 0 {
                tokio::task::block_in_place(|| thread::sleep(Duration::from_micros(300)));
            } else if (round + task) % 3 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            } else {
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(200) {}
                tokio::task::yield_now().await;
            }
            if keeps_wakers() {
                comparisons.extend(find_and_compare(&monitor));
            } else {
                tokio::task::yield_now().await;
            }
        }
        comparisons
    }

    /// A thread may become another worker before anything shows that it has handed off the first.
    #[test]
    fn a_wrong_worker_is_found_in_less_than_one_of_a_hundred_cases_while_workers_move() {
        let runtime = runtime();
        let monitor = state_of(&runtime);
        let spawn = |task| runtime.spawn(work(Arc::clone(&monitor), task));
        let tasks: Vec<_> = (0..8).map(spawn).collect();
        let comparisons: Vec<bool> =
            tasks.into_iter().flat_map(|task| runtime.block_on(task).unwrap()).collect();
        let wrong = comparisons.iter().filter(|is_right| !**is_right).count();
        if TokioWorkerIndex::of_current_thread() != TokioWorkerIndex::Unavailable {
            assert!(comparisons.len() > 100, "{} comparisons", comparisons.len());
        }
        assert!(wrong * 100 <= comparisons.len(), "{wrong} of {} are wrong", comparisons.len());
    }
}
