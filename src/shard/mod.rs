//! Per-thread state of a monitor: what a thread is polling now, and its counters.
//!
//! Each thread writes its own [`Shard`] and no other, so the poll path needs neither locks nor
//! atomic read-modify-write instructions. The watchdog and the exporter read all shards.

mod context;
mod counters;
mod current_poll;
mod histogram;
mod lateness;
mod notifier;
mod observations;
mod outcome;
mod poll;
mod preemption;
mod thread_counters;
mod thread_samples;
mod thresholds;
mod time_breakdown;

pub(crate) use self::context::PollContext;
pub(crate) use self::counters::{RouteCounters, RouteTotals};
pub(crate) use self::histogram::{
    BOUNDS_NANOS, BUCKETS, BucketBounds, Histogram, HistogramSnapshot,
};
pub(crate) use self::lateness::Lateness;
pub(crate) use self::notifier::Notifier;
pub(crate) use self::observations::PollObservations;
pub(crate) use self::outcome::Outcome;
pub(crate) use self::poll::{PollId, PollInfo};
pub(crate) use self::thread_counters::ThreadCounters;
pub(crate) use self::thread_samples::ThreadSample;
pub(crate) use self::thresholds::Thresholds;
pub(crate) use self::time_breakdown::TimeBreakdown;

use self::current_poll::CurrentPoll;
use self::histogram::add;
use self::preemption::Preemption;
use crate::os::Tid;
use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// The state that one thread writes, together with everything else that its polls read.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Shard {
    index: usize,
    pub(crate) context: PollContext,
    pub(crate) current_poll: CurrentPoll,
    /// Relaxed: a reader loads it after `requests_ended`, which is ordered.
    requests_started: AtomicU64,
    requests_ended: AtomicU64,
    /// Index of the worker in the watched runtime plus one; 0 for other threads. Relaxed: no other
    /// memory belongs to it.
    worker: AtomicU64,
    /// Whether the thread is a worker of the watched runtime, though it is not known which. Relaxed:
    /// no other memory belongs to it.
    is_unknown_worker: AtomicBool,
    /// The kernel's id of the owning thread; 0 while the shard is free. Relaxed: no other memory
    /// belongs to it, and a reader that finds the last owner's corrects itself at the next scan.
    tid: AtomicU64,
    pub(crate) observations: PollObservations,
    pub(crate) preemption: Preemption,
}

impl Shard {
    /// Creates a shard of no thread.
    pub(crate) fn new(index: usize, context: PollContext) -> Self {
        Self {
            index,
            context,
            current_poll: CurrentPoll::default(),
            requests_started: AtomicU64::new(0),
            requests_ended: AtomicU64::new(0),
            worker: AtomicU64::new(0),
            is_unknown_worker: AtomicBool::new(false),
            tid: AtomicU64::new(0),
            observations: PollObservations::default(),
            preemption: Preemption::default(),
        }
    }

    #[inline]
    pub(crate) fn request_started(&self) {
        add(&self.requests_started, 1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn request_ended(&self) {
        // Release: pairs with the Acquire in `requests_ended`.
        add(&self.requests_ended, 1, Ordering::Release);
    }

    /// Returns how many requests have started on the thread. To be called after `requests_ended`.
    pub(crate) fn requests_started(&self) -> u64 {
        self.requests_started.load(Ordering::Relaxed)
    }

    pub(crate) fn requests_ended(&self) -> u64 {
        // Acquire: pairs with the Release in `request_ended`.
        self.requests_ended.load(Ordering::Acquire)
    }

    /// Returns the place among the shards of the monitor.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn worker(&self) -> Option<usize> {
        self.worker.load(Ordering::Relaxed).checked_sub(1).map(|index| index as usize)
    }

    pub(crate) fn set_worker(&self, worker: Option<usize>) {
        self.worker.store(worker.map_or(0, |index| index as u64 + 1), Ordering::Relaxed);
    }

    pub(crate) fn is_unknown_worker(&self) -> bool {
        self.is_unknown_worker.load(Ordering::Relaxed)
    }

    pub(crate) fn set_unknown_worker(&self, is_unknown: bool) {
        self.is_unknown_worker.store(is_unknown, Ordering::Relaxed);
    }

    /// Returns the id of the poll in this shard that began at `start`.
    pub(crate) fn poll_id(&self, start: u64) -> PollId {
        PollId { shard: self.address(), start }
    }

    pub(crate) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Returns the kernel's id of the owning thread.
    pub(crate) fn tid(&self) -> Option<Tid> {
        let tid = self.tid.load(Ordering::Relaxed);
        (tid != 0).then_some(Tid(tid))
    }

    pub(crate) fn set_tid(&self, tid: Tid) {
        self.tid.store(tid.0, Ordering::Relaxed);
    }

    /// Forgets the thread, which has ended.
    pub(crate) fn forget_thread(&self) {
        self.set_worker(None);
        self.set_unknown_worker(false);
        self.set_tid(Tid(0));
        self.preemption.reset();
    }
}
