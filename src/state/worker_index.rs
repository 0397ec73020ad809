//! Which worker the current thread is, also with versions of tokio that do not say it.
//!
//! `tokio::runtime::worker_index` exists since tokio 1.54. Before, two observations take its place:
//!
//! - A worker keeps the waker of a task that yields until the tasks that are ready have run. Any
//!   other thread wakes it at once, also one that has handed off its worker.
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

impl MonitorState {
    /// Returns which worker of the watched runtime the current thread is, if it is known. After
    /// `block_in_place`, it still is the one that it has handed off until the poll ends.
    pub(crate) fn current_worker(&self, shard: &Shard) -> Option<usize> {
        self.current_worker_since(shard, None)
    }

    /// Returns the same on a thread that has polled a whole batch of tasks since these counters were
    /// read, so that its worker has counted something.
    pub(super) fn current_worker_since(
        &self,
        shard: &Shard,
        before: Option<&AllCounters>,
    ) -> Option<usize> {
        if !self.is_in_runtime() {
            return None;
        }
        match TokioWorkerIndex::of_current_thread() {
            TokioWorkerIndex::Known(worker) => worker,
            TokioWorkerIndex::Unavailable if keeps_wakers() => self.find_worker(before),
            TokioWorkerIndex::Unavailable => shard.worker(),
        }
    }

    /// Returns whether the current thread is a worker of the watched runtime, which tokio does not
    /// say.
    pub(super) fn is_on_unknown_worker(&self) -> bool {
        self.is_in_runtime()
            && TokioWorkerIndex::of_current_thread() == TokioWorkerIndex::Unavailable
            && keeps_wakers()
    }

    /// Returns whether the current thread has been a worker, though it is not known which, and has
    /// handed it off.
    pub(crate) fn has_left_unknown_worker(&self, shard: &Shard) -> bool {
        shard.is_unknown_worker() && self.is_in_runtime() && !self.is_on_unknown_worker()
    }

    /// Returns the counters of each worker of the watched runtime.
    pub(crate) fn worker_counters(&self) -> AllCounters {
        let metrics = self.runtime.metrics();
        (0..metrics.num_workers()).map(|worker| worker_counters(&metrics, worker)).collect()
    }

    fn is_in_runtime(&self) -> bool {
        Handle::try_current().is_ok_and(|current| current.id() == self.runtime.id())
    }

    /// Finds out which worker the current thread is, which has not handed it off.
    fn find_worker(&self, before: Option<&AllCounters>) -> Option<usize> {
        if self.runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
            return Some(0);
        }
        let (metrics, thread) = (self.runtime.metrics(), Tid::current());
        let known = self.worker_threads.worker(thread);
        if let Some(worker) = known.filter(|&worker| is_parked(&metrics, worker)) {
            self.worker_threads.forget(worker, thread);
        }
        known
            .filter(|&worker| !is_parked(&metrics, worker))
            .or_else(|| only_worker(&metrics, thread, before))
    }
}

/// Returns whether the current thread, whose shard this is, is a worker, of whichever runtime. Others,
/// such as the threads of the blocking pool, delay no task by a long poll.
pub(crate) fn is_on_worker(shard: &Shard) -> bool {
    match TokioWorkerIndex::of_current_thread() {
        TokioWorkerIndex::Known(worker) => worker.is_some(),
        TokioWorkerIndex::Unavailable => keeps_wakers() || shard.worker().is_some(),
    }
}

/// Returns the only worker that is not parked, and whose counters do not change for a while, but have
/// changed since `before`.
fn only_worker(
    metrics: &RuntimeMetrics,
    thread: Tid,
    before: Option<&AllCounters>,
) -> Option<usize> {
    let counters = |worker| worker_counters(metrics, worker);
    let has_changed = |&(worker, now): &(usize, [u64; 2])| {
        before.is_none_or(|before| before.get(worker) != Some(&Some(now)))
    };
    let mut candidates: Vec<_> = (0..metrics.num_workers())
        .filter(|&worker| !is_parked(metrics, worker))
        .filter_map(|worker| Some((worker, counters(worker)?)))
        .filter(has_changed)
        .collect();
    let (start, wait) = (Instant::now(), WAIT * (1 + thread.0.unsigned_abs() % 4));
    while candidates.len() > 1 && start.elapsed() < wait {
        std::hint::spin_loop();
        candidates.retain(|&(worker, before)| counters(worker) == Some(before));
    }
    match candidates[..] {
        [(worker, _)] => Some(worker),
        _ => None,
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
        // Shadows the function of this module, if it has one of this name.
        #[allow(unused_imports, clippy::wildcard_imports)]
        use tokio::runtime::*;
        worker_index().into()
    }
}

/// Called with versions of tokio that do not have it.
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
    use std::thread;

    use tokio::runtime::Runtime;

    use super::*;
    use crate::state::MonitorState;
    use crate::state::tests::state_of;

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
                if let Some(found) = monitor.find_worker(Some(&before)) {
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
}
