//! The measurement of one request: it rides from the call through the future to the body, and its drop is the record.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::task::Waker;

use crate::cells::{Lane, Poll, RouteCells};
use crate::evidence::Evidence;
use crate::os;
use crate::outcome::{Outcome, Phase};
use crate::routes::{Method, RouteId};
use crate::shared::{Finished, Own, Shared};
use crate::trace::SpanRef;
use crate::wake::{Lent, Wakes};

/// Measures one request, or one instrumented task.
///
/// Started when it is made, accounted for when it is dropped, whatever happened in between.
#[derive(Debug)]
pub(crate) struct Meter {
    /// That of the thread it was last polled on.
    own: Arc<Own>,
    account: Account,
    wakes: Wakes,
}

/// What is known of a request so far. Times are in ticks.
#[derive(Debug)]
pub(crate) struct Account {
    /// Those of its route on that thread, kept so that a poll need not look them up.
    cells: Arc<RouteCells>,
    route: RouteId,
    is_request: bool,
    phase: Phase,
    /// How the request counts if it is dropped now.
    outcome: Outcome,
    /// When it began.
    start: u64,
    /// Sum of its polls.
    busy: u64,
    /// When the poll began that goes on, or was the last one.
    poll_start: u64,
    /// When its last poll ended.
    polled_until: u64,
    /// The wake that led to the poll that goes on, 0 for none.
    woken: u64,
    span: u64,
}

/// One poll that goes on. `end` ends it, or its drop where it unwinds.
pub(crate) struct Polling<'a> {
    own: &'a Own,
    account: &'a mut Account,
}

// === impl Meter ===

impl Meter {
    /// Measures a request, but for one inside a request that the same monitor measures already.
    #[inline]
    pub(crate) fn request(shared: &Arc<Shared>, route: impl FnOnce(&Own) -> RouteId) -> Option<Self> {
        let own = shared.own();
        if own.lane.slot.is_active() && is_inside_a_request(&own, shared) {
            return None;
        }
        let route = route(&own);
        Some(Self::start(own, route, true))
    }

    /// Measures a background task.
    pub(crate) fn task(shared: &Arc<Shared>, name: &str) -> Self {
        let own = shared.own();
        let route = own.route(&shared.routes, Method::TASK, name);
        Self::start(own, route, false)
    }

    #[inline]
    fn start(own: Arc<Own>, route: RouteId, is_request: bool) -> Self {
        // First, as a subscriber may panic: then the request has not begun.
        let span = SpanRef::current_id();
        let cells = Arc::clone(own.lane.cells(route));
        cells.start();
        if is_request {
            own.lane.request_started();
        }
        let start = own.clock.now();
        let (phase, outcome) = (Phase::Handler, Outcome::Cancelled);
        let account = Account {
            cells,
            route,
            is_request,
            phase,
            outcome,
            start,
            busy: 0,
            poll_start: start,
            polled_until: start,
            woken: 0,
            span,
        };
        Self { own, account, wakes: Wakes::default() }
    }

    /// From now on polls are the body's.
    #[inline]
    pub(crate) fn enter_body(&mut self) {
        self.account.phase = Phase::Body;
    }

    /// Says how the request counts if it is dropped from now on.
    #[inline]
    pub(crate) fn count_as(&mut self, outcome: Outcome) {
        self.account.outcome = outcome;
    }

    /// The meter, where it can measure on this thread: it is gone if its monitor is.
    #[inline(always)]
    pub(crate) fn here(meter: &mut Option<Self>) -> Option<&mut Self> {
        if meter.as_ref().is_some_and(|meter| !meter.own.is_here()) {
            Self::move_here(meter);
        }
        meter.as_mut()
    }

    /// Begins a poll, by `task`. Measures the delay since the wake that led to it, too.
    ///
    /// `mark` is a place in the frame of the caller: what the poll calls lies below it.
    #[inline(always)]
    pub(crate) fn poll<'a>(&'a mut self, task: &'a Waker, mark: &u8) -> (Polling<'a>, Lent<'a>) {
        let Self { own, account, wakes } = self;
        account.poll_start = own.clock.now();
        account.woken = wakes.take().unwrap_or(0);
        (Polling::begin(own, account, mark), wakes.lend(&own.clock, task))
    }

    /// Begins the call that the request began with, which counts as a poll.
    #[inline(always)]
    pub(crate) fn call<'a>(&'a mut self, mark: &u8) -> Polling<'a> {
        Polling::begin(&self.own, &mut self.account, mark)
    }

    #[cold]
    fn move_here(meter: &mut Option<Self>) {
        let is_here = meter.as_mut().is_some_and(Self::follow);
        if !is_here {
            // Nobody reads what it measures any more.
            *meter = None;
        }
    }

    /// Goes on on this thread, unless the monitor is gone.
    #[cold]
    fn follow(&mut self) -> bool {
        let Some(shared) = self.own.shared() else { return false };
        self.own = shared.own();
        self.account.cells = Arc::clone(self.own.lane.cells(self.account.route));
        true
    }
}

#[cold]
fn is_inside_a_request(own: &Own, shared: &Shared) -> bool {
    own.lane.slot.own().is_some_and(|poll| !shared.routes.is_task(poll.route))
}

impl Drop for Meter {
    #[inline]
    fn drop(&mut self) {
        if !self.own.is_here() && !self.follow() {
            return;
        }
        let Self { own, account, .. } = self;
        let duration = own.clock.now().saturating_sub(account.start);
        account.cells.end(&own.bounds, account.outcome, duration, account.busy);
        if account.is_request {
            own.lane.request_ended();
        }
    }
}

// === impl Polling ===

impl<'a> Polling<'a> {
    #[inline(always)]
    fn begin(own: &'a Own, account: &'a mut Account, mark: &u8) -> Self {
        let slot = &own.lane.slot;
        let Account { route, phase, poll_start: start, span, .. } = *account;
        if slot.is_active() {
            slot.set_aside();
        }
        let mark = std::ptr::from_ref(mark).addr() as u64;
        slot.enter(Poll { route, phase, start, span, mark });
        own.alarm.wake();
        Self { own, account }
    }

    #[inline(always)]
    pub(crate) fn end(self) {
        ManuallyDrop::new(self).account();
    }

    #[inline(always)]
    fn account(&mut self) {
        let Self { own, account } = self;
        let (slot, bounds, start) = (&own.lane.slot, &own.bounds, account.poll_start);
        let end = own.clock.now();
        slot.leave();
        let ticks = end.saturating_sub(start);
        let cells = &*account.cells;
        cells.poll(bounds, account.phase, ticks);
        if account.woken != 0 {
            // A future that wakes itself could not have been polled before its poll was over.
            let ready = account.woken.max(account.polled_until);
            cells.schedule_delay(bounds, start.saturating_sub(ready));
        }
        account.busy += ticks;
        account.polled_until = end;
        if ticks > own.threshold() {
            held_long(own, account, ticks);
        }
        if slot.is_inside() {
            slot.resume();
        }
    }
}

impl Drop for Polling<'_> {
    /// The poll unwinds.
    #[cold]
    fn drop(&mut self) {
        self.account();
        self.account.outcome = Outcome::Panicked;
    }
}

// === a poll that held its thread for long ===

#[cold]
fn held_long(own: &Own, account: &Account, ticks: u64) {
    let (slot, start) = (&own.lane.slot, account.poll_start);
    // Time that polls inside have been blamed for already is not this one's too.
    let inside = slot.stalled(start);
    let alone = ticks.saturating_sub(inside);
    if alone > own.threshold() {
        slot.set_stalled(start, inside + alone);
        stalled(own, account, alone);
    }
}

/// A poll that held its thread longer than the threshold: one message to the reporter.
fn stalled(own: &Own, account: &Account, ticks: u64) {
    let Some(shared) = own.shared() else { return };
    let Account { route, phase, poll_start: start, polled_until: end, span, .. } = *account;
    let lane = &own.lane;
    let evidence = evidence(lane, &shared, start, end);
    let finished = Finished {
        of: lane.subject(start),
        poll: Poll { route, phase, start, span, mark: 0 },
        ticks,
        end,
        threshold: own.threshold(),
        worker: lane.worker(),
        held_up: shared.held_up_by(route),
        io_starved: lane.watched.is_starved(start),
        rescued: lane.watched.is_rescued(start),
        evidence,
        span: SpanRef::current(),
    };
    if !shared.inbox.finished(finished) {
        account.cells.unreported_stall(&own.bounds, ticks);
    }
}

/// How the poll from `start` to `end` spent its time since the watchdog first looked at it.
fn evidence(lane: &Lane, shared: &Shared, start: u64, end: u64) -> Option<Evidence> {
    let believed = lane.worker();
    shared.locate(lane);
    let cpu = os::own_cpu_time()?;
    let waited = os::turns(os::Tid::current())?.waited;
    let evidence = lane.watched.evidence_at_end(start, shared.clock.duration(end), cpu, waited)?;
    // The counters of a worker that this thread is not say nothing about it.
    let handed_off = evidence.handed_off && lane.worker() == believed;
    if handed_off {
        // Another thread is that worker now, whatever tokio says on this one until the poll is over.
        lane.set_worker(None);
    }
    Some(Evidence { handed_off, ..evidence })
}
