//! A stall that goes on now: of a measured poll, or of a worker that something unmeasured holds.

use super::{Finished, Shared};
use crate::cells::{Lane, Poll, Subject, Watched};
use crate::outcome::Phase;
use crate::routes::Routes;
use crate::sync::{AtomicU64, Ordering};
use crate::trace::SpanRef;

/// A poll that has lasted for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stalled<'a> {
    pub(crate) of: Subject,
    pub(crate) poll: Poll,
    /// In ticks.
    pub(crate) age: u64,
    pub(crate) worker: Option<usize>,
    pub(crate) watched: &'a Watched,
}

/// What holds one worker outside all that is measured. The watchdog writes it.
#[derive(Debug, Default)]
pub(crate) struct Unattributed {
    /// Since when, in ticks; 0 while nothing does.
    start: AtomicU64,
    pub(crate) watched: Watched,
}

// === impl Stalled ===

impl<'a> Stalled<'a> {
    pub(crate) fn of_lane(lane: &'a Lane, poll: Poll, age: u64) -> Self {
        let of = lane.subject(poll.start);
        Self { of, poll, age, worker: lane.worker(), watched: &lane.watched }
    }

    /// What holds a worker, if something does.
    pub(crate) fn unattributed(worker: usize, held: &'a Unattributed, now: u64) -> Option<Self> {
        let start = held.start()?;
        let (of, poll) = (Self::subject(worker, start), Unattributed::poll(start));
        Some(Self { of, poll, age: now.saturating_sub(start), worker: Some(worker), watched: &held.watched })
    }

    /// No lane has such a small address.
    pub(super) fn subject(worker: usize, start: u64) -> Subject {
        Subject { lane: worker, start }
    }
}

// === impl Unattributed ===

impl Unattributed {
    pub(crate) fn start(&self) -> Option<u64> {
        let start = self.start.load(Ordering::Relaxed);
        (start != 0).then_some(start)
    }

    pub(crate) fn begin(&self, start: u64) {
        self.start.store(start, Ordering::Relaxed);
    }

    /// It is over, if there was anything: one message to the reporter.
    pub(crate) fn end(&self, shared: &Shared, worker: usize, now: u64) {
        let Some(stalled) = Stalled::unattributed(worker, self, now) else { return };
        self.start.store(0, Ordering::Relaxed);
        let (poll, start) = (stalled.poll, stalled.poll.start);
        // One that the full box refuses is counted there, and in no route's own cells: it has none on this thread.
        let _ = shared.inbox.finished(Finished {
            of: stalled.of,
            poll,
            ticks: stalled.age,
            end: now,
            threshold: shared.threshold(),
            worker: Some(worker),
            held_up: shared.held_up_by(poll.route),
            io_starved: self.watched.is_starved(start),
            rescued: self.watched.is_rescued(start),
            evidence: self.watched.evidence(start),
            span: SpanRef::none(),
        });
    }

    fn poll(start: u64) -> Poll {
        Poll { route: Routes::UNATTRIBUTED, phase: Phase::Handler, start, span: 0, mark: u64::MAX }
    }
}
