//! What polling threads record for the attribution of delays, on the slow path: the polls that may
//! have delayed others, and the delays. Bounded, and no sender waits.

use crossbeam_queue::ArrayQueue;

use crate::routes::RouteId;
use crate::sync::{AtomicU64, Ordering};

/// Where tasks are polled one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Lane {
    Worker(usize),
    /// The thread of a worker of which it is not known which one it is, by the address of its shard.
    UnknownWorker(usize),
    /// A thread that is no worker, by the address of its shard.
    Thread(usize),
}

/// A poll that has ended, and was long enough to delay others noticeably, but no stall: the
/// reporter knows those. Times are in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LongPoll {
    pub(crate) lane: Lane,
    pub(crate) route: RouteId,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// For how long the host has kept the thread off the CPU meanwhile, at most.
    pub(crate) host: u64,
}

/// For how long a request waited although it could have been polled. Times are in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delay {
    /// Where it was polled in the end.
    pub(crate) lane: Lane,
    pub(crate) route: RouteId,
    pub(crate) ready: u64,
    pub(crate) polled: u64,
    /// Whether it waited in a socket, so that it was not in flight yet.
    pub(crate) in_socket: bool,
    /// Since when the worker has polled tasks without parking.
    pub(crate) busy_since: u64,
}

#[derive(Debug)]
pub(crate) struct AttributionQueue {
    long_polls: ArrayQueue<LongPoll>,
    delays: ArrayQueue<Delay>,
    /// The delays that found the queue full, in ticks. Relaxed: a sum by itself.
    lost: AtomicU64,
}

impl AttributionQueue {
    const LONG_POLLS: usize = 1024;
    const DELAYS: usize = 2048;

    /// Adds a poll. Of too many, the oldest are forgotten: the delays by them are unknown.
    pub(crate) fn push_long_poll(&self, poll: LongPoll) {
        let _ = self.long_polls.force_push(poll);
    }

    pub(crate) fn push_delay(&self, delay: Delay) {
        if self.delays.push(delay).is_err() {
            self.lost.fetch_add(delay.polled - delay.ready, Ordering::Relaxed);
        }
    }

    pub(crate) fn pop_long_poll(&self) -> Option<LongPoll> {
        self.long_polls.pop()
    }

    pub(crate) fn pop_delay(&self) -> Option<Delay> {
        self.delays.pop()
    }

    /// Returns the sum of the delays that found the queue full since the last call, in ticks.
    pub(crate) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    pub(crate) fn has_delays(&self) -> bool {
        !self.delays.is_empty()
    }

    /// Returns whether the delays should be taken soon.
    pub(crate) fn is_filling(&self) -> bool {
        self.delays.len() > Self::DELAYS / 2 || self.long_polls.len() > Self::LONG_POLLS / 2
    }
}

impl Default for AttributionQueue {
    fn default() -> Self {
        Self {
            long_polls: ArrayQueue::new(Self::LONG_POLLS),
            delays: ArrayQueue::new(Self::DELAYS),
            lost: AtomicU64::new(0),
        }
    }
}
