//! A stall in progress: of a measured poll, or of a worker that unmeasured code occupies.

use super::MonitorState;
use super::message::{EndedStall, InProgressReport, StallMessage};
use crate::routes::Routes;
use crate::shard::{PollId, PollInfo, PollObservations, Shard};
use crate::stall::Phase;
use crate::sync::{AtomicU64, Ordering};
use crate::trace::SpanRef;

/// A poll in progress that may be a stall.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StallInProgress<'a> {
    pub(crate) id: PollId,
    pub(crate) poll: PollInfo,
    /// In ticks.
    pub(crate) age: u64,
    pub(crate) worker: Option<usize>,
    pub(crate) observations: &'a PollObservations,
}

/// The unmeasured poll that occupies one worker. Written by the watchdog.
#[derive(Debug, Default)]
pub(crate) struct UnattributedPoll {
    /// When it began, in ticks; 0 if there is none. Relaxed, like `suspected_since`:
    /// `observations` holds the time of the poll that each of its values belongs to.
    start: AtomicU64,
    /// The start of the poll that is beyond doubt. Another one may turn out to be many short ones.
    confirmed: AtomicU64,
    /// Since when the worker has been suspected of being occupied, in ticks; 0 if it is not.
    suspected_since: AtomicU64,
    pub(crate) observations: PollObservations,
}

// === impl StallInProgress ===

impl<'a> StallInProgress<'a> {
    pub(crate) fn measured(shard: &'a Shard, poll: PollInfo, age: u64) -> Self {
        let id = shard.poll_id(poll.start);
        let observations = &shard.observations;
        let worker = shard.worker().or_else(|| observations.worker(poll.start));
        Self { id, poll, age, worker, observations }
    }

    /// Returns the unmeasured poll that occupies a worker, if there is one.
    pub(crate) fn unattributed(
        worker: usize,
        poll: &'a UnattributedPoll,
        now: u64,
    ) -> Option<Self> {
        let start = poll.start()?;
        Some(Self {
            id: UnattributedPoll::id(worker, start),
            poll: UnattributedPoll::info(start),
            age: now.saturating_sub(start),
            worker: Some(worker),
            observations: &poll.observations,
        })
    }

    pub(crate) fn to_report(self, monitor: &MonitorState) -> InProgressReport {
        InProgressReport { stall: self.to_message(monitor) }
    }

    fn to_message(self, monitor: &MonitorState) -> StallMessage {
        let Self { id, poll, age, worker, observations } = self;
        StallMessage {
            id,
            poll,
            ticks: age,
            threshold: monitor.threshold(),
            worker,
            on_worker: true,
            in_flight: monitor.other_requests_in_flight(poll.route),
            io_starved: observations.is_starved(poll.start),
            rescued_at: observations.rescued_at(poll.start),
            breakdown: observations.breakdown(poll.start),
        }
    }
}

// === impl UnattributedPoll ===

impl UnattributedPoll {
    pub(crate) fn start(&self) -> Option<u64> {
        let start = self.start.load(Ordering::Relaxed);
        (start != 0).then_some(start)
    }

    /// Returns the moment that observations of the worker belong to: the start of the poll, or of
    /// the suspicion that there is one.
    pub(crate) fn observed_since(&self) -> Option<u64> {
        let suspected_since = self.suspected_since.load(Ordering::Relaxed);
        self.start().or((suspected_since != 0).then_some(suspected_since))
    }

    /// Returns whether a stack has shown that the thread is not inside the runtime.
    pub(crate) fn is_handed_off(&self) -> bool {
        self.start().is_some_and(|start| self.observations.is_handed_off(start))
    }

    /// Returns whether the poll is beyond doubt.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.start() == Some(self.confirmed.load(Ordering::Relaxed))
    }

    /// Records that the poll is beyond doubt.
    pub(crate) fn confirm(&self) {
        self.confirmed.store(self.start.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(crate) fn suspect(&self, since: u64) {
        self.suspected_since.store(since, Ordering::Relaxed);
    }

    /// Begins the poll that the worker was suspected of. What was observed since then is true of
    /// it.
    pub(crate) fn begin(&self, start: u64) {
        let observed_since = self.observed_since();
        let is_starved = observed_since.is_some_and(|since| self.observations.is_starved(since));
        let rescued_at = observed_since.and_then(|since| self.observations.rescued_at(since));
        self.start.store(start, Ordering::Relaxed);
        if is_starved {
            self.observations.set_starved(start);
        }
        if let Some(at) = rescued_at {
            self.observations.set_rescued(start, at);
        }
    }

    /// Ends the suspicion, and the poll, if there is one, with one message to the reporter.
    pub(crate) fn end(&self, monitor: &MonitorState, worker: usize, now: u64) {
        let stall = StallInProgress::unattributed(worker, self, now);
        self.discard();
        let Some(stall) = stall.map(|stall| stall.to_message(monitor)) else { return };
        // A stall that the full queue rejects is counted there; it has no route counters on this
        // thread.
        let _ = monitor.queue.push_ended(EndedStall { stall, end: now, span: SpanRef::none() });
    }

    /// Ends the suspicion, and forgets the poll: there was none that long.
    pub(crate) fn discard(&self) {
        self.suspected_since.store(0, Ordering::Relaxed);
        self.start.store(0, Ordering::Relaxed);
    }

    /// No shard has an address as small as the index of a worker.
    pub(super) fn id(worker: usize, start: u64) -> PollId {
        PollId { shard: worker, start }
    }

    fn info(start: u64) -> PollInfo {
        PollInfo {
            route: Routes::UNATTRIBUTED,
            phase: Phase::Handler,
            start,
            span: 0,
            stack_mark: u64::MAX,
        }
    }
}
