//! What polling threads and the watchdog tell the reporter. No sender ever waits.

use std::sync::OnceLock;
use std::thread::Thread;

use crossbeam_queue::ArrayQueue;

use super::{Shared, Stalled};
use crate::cells::{Poll, Subject};
use crate::evidence::Evidence;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::trace::SpanRef;

/// A stall that is over.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) of: Subject,
    pub(crate) poll: Poll,
    /// How long it lasted by itself.
    pub(crate) ticks: u64,
    /// When it ended.
    pub(crate) end: u64,
    pub(crate) threshold: u64,
    pub(crate) worker: Option<usize>,
    /// Other requests in flight.
    pub(crate) held_up: usize,
    pub(crate) io_starved: bool,
    pub(crate) rescued: bool,
    pub(crate) evidence: Option<Evidence>,
    pub(crate) span: SpanRef,
}

/// A stall in progress whose report is due.
#[derive(Debug)]
pub(crate) struct Sighting {
    pub(crate) of: Subject,
    pub(crate) poll: Poll,
    pub(crate) ticks: u64,
    pub(crate) worker: Option<usize>,
    /// Other requests in flight.
    pub(crate) held_up: usize,
    pub(crate) io_starved: bool,
    pub(crate) rescued: bool,
    pub(crate) evidence: Option<Evidence>,
}

/// The reporter's letter boxes: one for polling threads, one that is the watchdog's alone, and the bell.
#[derive(Debug)]
pub(crate) struct Inbox {
    finished: ArrayQueue<Finished>,
    sightings: ArrayQueue<Sighting>,
    dropped: AtomicU64,
    rescues: AtomicU64,
    flush: AtomicBool,
    closed: AtomicBool,
    reporter: OnceLock<Thread>,
}

// === impl Sighting ===

impl Sighting {
    pub(crate) fn of(shared: &Shared, stalled: &Stalled<'_>) -> Self {
        let Stalled { of, poll, age, worker, watched } = *stalled;
        Self {
            of,
            poll,
            ticks: age,
            worker,
            held_up: shared.held_up_by(poll.route),
            io_starved: watched.is_starved(poll.start),
            rescued: watched.is_rescued(poll.start),
            evidence: watched.evidence(poll.start),
        }
    }
}

// === impl Inbox ===

impl Inbox {
    const FINISHED: usize = 1024;
    const SIGHTINGS: usize = 256;

    /// `false` where the box is full: the stall is then counted, but not told of.
    pub(crate) fn finished(&self, finished: Finished) -> bool {
        if self.is_closed() {
            return false;
        }
        if finished.rescued {
            self.rescues.fetch_add(1, Ordering::Relaxed);
        }
        let taken = self.finished.push(finished).is_ok();
        if !taken {
            self.drop_one();
        }
        self.ring();
        taken
    }

    pub(crate) fn sighting(&self, sighting: Sighting) {
        if self.sightings.push(sighting).is_err() {
            self.drop_one();
        }
        self.ring();
    }

    /// Asks for the cells to be flushed.
    pub(crate) fn flush(&self) {
        self.flush.store(true, Ordering::Release);
        self.ring();
    }

    /// Asks the reporter to do what is left and end.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.ring();
    }

    /// Has the reporter look at the captures.
    pub(crate) fn captured(&self) {
        self.ring();
    }

    /// Unparking takes no lock where std's parker is a futex, an address or a semaphore: on every system that tokio runs on.
    fn ring(&self) {
        if let Some(reporter) = self.reporter.get() {
            reporter.unpark();
        }
    }

    // The reporter's side.

    /// Makes `reporter` the one that is rung. Said by whoever has started it, before anybody can close the inbox.
    pub(crate) fn attend(&self, reporter: Thread) {
        let _ = self.reporter.set(reporter);
    }

    pub(crate) fn next_finished(&self) -> Option<Finished> {
        self.finished.pop()
    }

    pub(crate) fn next_sighting(&self) -> Option<Sighting> {
        self.sightings.pop()
    }

    pub(crate) fn take_flush(&self) -> bool {
        self.flush.swap(false, Ordering::Acquire)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Stalls that a full box refused.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Notes that something could not be told of.
    pub(crate) fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Finished stalls that were rescued from.
    pub(crate) fn rescues(&self) -> u64 {
        self.rescues.load(Ordering::Relaxed)
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            finished: ArrayQueue::new(Self::FINISHED),
            sightings: ArrayQueue::new(Self::SIGHTINGS),
            dropped: AtomicU64::new(0),
            rescues: AtomicU64::new(0),
            flush: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            reporter: OnceLock::new(),
        }
    }
}
