//! Which thread runs each worker, as tasks inside the runtime report it.
//!
//! Tokio moves a worker to another thread when a task calls `block_in_place`, without notice.
//! So a thread that has been seen as a worker keeps that role only until there is evidence against it.

use super::flag::Flag;
use crate::os::Tid;
use crate::sync::{AtomicU64, Ordering};

/// The name that tokio gives to its threads, of which the kernel keeps 15 bytes.
pub(crate) const TOKIO_THREAD_NAME: &str = "tokio-rt-worker";

#[derive(Debug)]
pub(crate) struct WorkerThreads {
    /// One entry per worker.
    workers: Box<[WorkerThread]>,
    /// How often a thread has become a worker. Relaxed: no other memory belongs to it.
    new_workers: AtomicU64,
    /// Whether a thread may have become another worker than it was.
    has_hand_offs: Flag,
    /// Whether a thread was a worker, though it was not known which.
    has_unknown: Flag,
}

/// Relaxed, all: each is true by itself, and a stale value is corrected by a later scan.
#[derive(Debug)]
struct WorkerThread {
    /// The kernel's id of the thread that was seen as this worker last; 0 if none is known.
    tid: AtomicU64,
    /// When it was first seen as this worker, in ticks.
    since: AtomicU64,
    /// The kernel's id of the thread that was seen as this worker first.
    first_tid: AtomicU64,
    /// The polls of the monitor's own tasks on this worker. A change proves that the worker has
    /// come back to its scheduler.
    own_polls: AtomicU64,
}

impl WorkerThreads {
    pub(super) fn new(workers: usize) -> Self {
        let entry = |_| WorkerThread {
            tid: AtomicU64::new(0),
            since: AtomicU64::new(0),
            first_tid: AtomicU64::new(0),
            own_polls: AtomicU64::new(0),
        };
        Self {
            workers: (0..workers).map(entry).collect(),
            new_workers: AtomicU64::new(0),
            has_hand_offs: Flag::default(),
            has_unknown: Flag::default(),
        }
    }

    /// Returns the thread that runs a worker, if it is known.
    pub(crate) fn thread(&self, worker: usize) -> Option<Tid> {
        tid(&self.workers.get(worker)?.tid)
    }

    /// Returns the worker that a thread runs, if it is known.
    pub(super) fn worker(&self, thread: Tid) -> Option<usize> {
        (thread.0 != 0).then_some(())?;
        self.workers.iter().position(|entry| entry.tid.load(Ordering::Relaxed) == thread.0)
    }

    /// Returns whether another thread has been seen as a worker since `start`, at which `thread` was
    /// that worker.
    pub(crate) fn is_taken_over(&self, worker: usize, thread: Tid, start: u64) -> bool {
        self.workers.get(worker).is_some_and(|entry| {
            let is_other = tid(&entry.tid).is_some_and(|other| other != thread);
            is_other && entry.since.load(Ordering::Relaxed) > start
        })
    }

    /// Returns the first thread that was seen as a worker.
    pub(crate) fn first_thread(&self, worker: usize) -> Option<Tid> {
        tid(&self.workers.get(worker)?.first_tid)
    }

    /// Returns the number of workers.
    pub(crate) fn len(&self) -> usize {
        self.workers.len()
    }

    /// Returns whether no worker is known to run on a thread.
    pub(crate) fn is_unknown(&self, thread: Tid) -> bool {
        self.workers.iter().all(|entry| entry.tid.load(Ordering::Relaxed) != thread.0)
    }

    /// Returns the number of workers whose thread is not known.
    pub(crate) fn unknown(&self) -> usize {
        self.workers.iter().filter(|entry| entry.tid.load(Ordering::Relaxed) == 0).count()
    }

    /// Returns how often the monitor's own tasks were polled on a worker.
    pub(crate) fn own_polls(&self, worker: usize) -> u64 {
        self.workers.get(worker).map_or(0, |entry| entry.own_polls.load(Ordering::Relaxed))
    }

    /// Records that a thread is a worker, `now` in ticks.
    pub(crate) fn set(&self, worker: usize, thread: Tid, now: u64) {
        if self.thread(worker) == Some(thread) {
            return;
        }
        for entry in &self.workers {
            forget(entry, thread);
        }
        if let Some(entry) = self.workers.get(worker) {
            let (none, first) = (0, thread.0);
            let first_tid = &entry.first_tid;
            let _ = first_tid.compare_exchange(none, first, Ordering::Relaxed, Ordering::Relaxed);
            entry.since.store(now, Ordering::Relaxed);
            entry.tid.store(thread.0, Ordering::Relaxed);
        }
    }

    /// Records that a thread is not the worker that it was.
    pub(crate) fn forget(&self, worker: usize, thread: Tid) {
        if let Some(entry) = self.workers.get(worker) {
            forget(entry, thread);
        }
    }

    /// Counts a thread that has become a worker. If there are more of them than workers, one has
    /// handed off its worker.
    pub(super) fn count_new_worker(&self) {
        let before = self.new_workers.fetch_add(1, Ordering::Relaxed);
        if before >= self.workers.len() as u64 {
            self.has_hand_offs.set();
        }
    }

    /// Records that a thread has handed off its worker.
    pub(super) fn add_hand_off(&self) {
        self.has_hand_offs.set();
    }

    /// Returns whether a thread may have become another worker than it was.
    pub(super) fn has_hand_offs(&self) -> bool {
        self.has_hand_offs.is_set()
    }

    /// Records that a thread is a worker, though it is not known which.
    pub(super) fn add_unknown(&self) {
        self.has_unknown.set();
    }

    /// Returns whether a thread was a worker, though it was not known which.
    pub(crate) fn has_unknown(&self) -> bool {
        self.has_unknown.is_set()
    }

    /// Records a poll of one of the monitor's own tasks on a worker.
    pub(crate) fn count_own_poll(&self, worker: usize) {
        if let Some(entry) = self.workers.get(worker) {
            entry.own_polls.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn forget(entry: &WorkerThread, thread: Tid) {
    let (known, none) = (thread.0, 0);
    let _ = entry.tid.compare_exchange(known, none, Ordering::Relaxed, Ordering::Relaxed);
}

fn tid(word: &AtomicU64) -> Option<Tid> {
    let tid = word.load(Ordering::Relaxed);
    (tid != 0).then_some(Tid(tid))
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_one_worker_and_is_forgotten_by_name() {
        let threads = WorkerThreads::new(2);
        assert_eq!((threads.thread(0), threads.unknown()), (None, 2));
        threads.set(0, Tid(7), 0);
        threads.set(1, Tid(7), 0);
        assert_eq!((threads.thread(0), threads.thread(1)), (None, Some(Tid(7))));
        threads.forget(1, Tid(8));
        assert!(!threads.is_unknown(Tid(7)), "another thread was forgotten");
        threads.forget(1, Tid(7));
        assert!(threads.is_unknown(Tid(7)));
        threads.set(9, Tid(7), 0);
        assert_eq!((threads.thread(9), threads.unknown()), (None, 2), "no such worker");
        threads.set(1, Tid(9), 0);
        assert_eq!((threads.first_thread(1), threads.thread(1)), (Some(Tid(7)), Some(Tid(9))));
    }

    #[test]
    fn a_worker_is_taken_over_if_another_thread_is_seen_as_it_later() {
        let threads = WorkerThreads::new(1);
        threads.set(0, Tid(7), 10);
        assert!(!threads.is_taken_over(0, Tid(7), 5), "it is that thread");
        threads.set(0, Tid(9), 20);
        threads.set(0, Tid(9), 40);
        assert!(threads.is_taken_over(0, Tid(7), 15));
        assert!(!threads.is_taken_over(0, Tid(7), 30), "it had been before");
        threads.forget(0, Tid(9));
        assert!(!threads.is_taken_over(0, Tid(7), 15), "not known");
    }
}
