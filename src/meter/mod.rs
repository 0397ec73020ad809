//! The measurement of one request: it rides from the call through the future to the body, and its drop is the record.

use std::sync::Arc;
use std::task::Context;

use crate::cells::{Outer, OwnLane, Poll};
use crate::evidence::Evidence;
use crate::os;
use crate::outcome::{Outcome, Phase};
use crate::routes::{Method, RouteId};
use crate::shared::{Finished, Shared};
use crate::trace::SpanRef;
use crate::wake::Wakes;

/// Measures one request, or one instrumented task.
///
/// Started when it is made, accounted for when it is dropped, whatever happened in between.
#[derive(Debug)]
pub(crate) struct Meter {
    shared: Arc<Shared>,
    route: RouteId,
    is_request: bool,
    phase: Phase,
    /// How the request counts if it is dropped now.
    outcome: Outcome,
    /// When it began, in ticks.
    start: u64,
    /// Sum of its polls, in ticks.
    busy: u64,
    /// When its last poll ended.
    polled_until: u64,
    span: u64,
    wakes: Wakes,
}

/// One poll that goes on. Its drop ends the poll, by return and by panic alike.
struct Scope<'a> {
    meter: &'a mut Meter,
    lane: OwnLane,
    outer: Option<Outer>,
    start: u64,
    /// How long polls before this one, inside the same outer poll, have stalled.
    stalled_before: u64,
    was_panicking: bool,
}

// === impl Meter ===

impl Meter {
    /// Measures a request, but for one inside a request that the same monitor measures already.
    #[inline]
    pub(crate) fn request(shared: &Arc<Shared>, method: Method, route: Option<&str>) -> Option<Self> {
        let lane = shared.own_lane();
        let around = lane.slot.own();
        if around.is_some_and(|poll| !shared.routes.is_task(poll.route)) {
            return None;
        }
        let route = shared.lanes.route(&shared.routes, method, route);
        Some(Self::start(shared, &lane, route, true))
    }

    /// Measures a background task.
    pub(crate) fn task(shared: &Arc<Shared>, name: &str) -> Self {
        let lane = shared.own_lane();
        let route = shared.lanes.route(&shared.routes, Method::TASK, Some(name));
        Self::start(shared, &lane, route, false)
    }

    #[inline]
    fn start(shared: &Arc<Shared>, lane: &OwnLane, route: RouteId, is_request: bool) -> Self {
        // First, as a subscriber may panic: then the request has not begun.
        let span = SpanRef::current_id();
        lane.cells(route).start();
        if is_request {
            lane.request_started();
        }
        let now = shared.clock.now();
        Self {
            shared: Arc::clone(shared),
            route,
            is_request,
            phase: Phase::Handler,
            outcome: Outcome::Cancelled,
            start: now,
            busy: 0,
            polled_until: now,
            span,
            wakes: Wakes::default(),
        }
    }

    /// From now on polls are the body's.
    pub(crate) fn enter_body(&mut self) {
        self.phase = Phase::Body;
    }

    /// Says how the request counts if it is dropped from now on.
    pub(crate) fn count_as(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Measures one poll, the delay since the wake that led to it included.
    #[inline]
    pub(crate) fn poll<R>(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> R) -> R {
        let woken = self.wakes.take();
        // A place in this very frame: what the poll calls lies below it.
        let mark = 0_u8;
        let scope = self.scope(&mark);
        if let Some(woken) = woken {
            scope.schedule_delay(woken);
        }
        let Self { wakes, shared, .. } = &mut *scope.meter;
        wakes.poll(&shared.clock, cx, poll)
    }

    /// Measures one call as a poll.
    #[inline]
    pub(crate) fn measure<R>(&mut self, call: impl FnOnce() -> R) -> R {
        let mark = 0_u8;
        let _scope = self.scope(&mark);
        call()
    }

    #[inline]
    fn scope(&mut self, mark: &u8) -> Scope<'_> {
        let mark = std::ptr::from_ref(std::hint::black_box(mark)).addr() as u64;
        let lane = self.shared.own_lane();
        let was_panicking = std::thread::panicking();
        let start = self.shared.clock.now();
        let poll = Poll { route: self.route, phase: self.phase, start, span: self.span, mark };
        let outer = Some(lane.slot.enter(poll));
        self.shared.alarm.wake();
        let stalled_before = lane.take_stalled_inside();
        Scope { meter: self, lane, outer, start, stalled_before, was_panicking }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let duration = self.shared.clock.now().saturating_sub(self.start);
        let lane = self.shared.own_lane();
        lane.cells(self.route).end(&self.shared.bounds, self.outcome, duration, self.busy);
        if self.is_request {
            lane.request_ended();
        }
    }
}

// === impl Scope ===

impl Scope<'_> {
    #[inline]
    fn schedule_delay(&self, woken: u64) {
        // A future that wakes itself could not have been polled before its poll was over.
        let ready = woken.max(self.meter.polled_until);
        let delay = self.start.saturating_sub(ready);
        self.lane.cells(self.meter.route).schedule_delay(&self.meter.shared.bounds, delay);
    }

    /// A poll that held its thread longer than the threshold: one message to the reporter.
    #[cold]
    fn stalled(&self, ticks: u64, end: u64) {
        let shared = &self.meter.shared;
        let evidence = self.evidence(end);
        let (route, phase, span) = (self.meter.route, self.meter.phase, self.meter.span);
        let finished = Finished {
            of: self.lane.subject(self.start),
            poll: Poll { route, phase, start: self.start, span, mark: 0 },
            ticks,
            end,
            threshold: shared.threshold(),
            worker: self.lane.worker(),
            held_up: shared.held_up_by(self.meter.route),
            io_starved: self.lane.watched.is_starved(self.start),
            rescued: self.lane.watched.is_rescued(self.start),
            evidence,
            span: SpanRef::current(),
        };
        if !shared.inbox.finished(finished) {
            self.lane.cells(self.meter.route).unreported_stall(&shared.bounds, ticks);
        }
    }

    /// How the poll that ends now spent its time since the watchdog first looked at it.
    fn evidence(&self, end: u64) -> Option<Evidence> {
        let shared = &self.meter.shared;
        let believed = self.lane.worker();
        shared.locate(&self.lane);
        let cpu = os::own_cpu_time()?;
        let waited = os::turns(os::Tid::current())?.waited;
        let evidence = self.lane.watched.evidence_at_end(self.start, shared.clock.duration(end), cpu, waited)?;
        // The counters of a worker that this thread is not say nothing about it.
        let handed_off = evidence.handed_off && self.lane.worker() == believed;
        if handed_off {
            // Another thread is that worker now, whatever tokio says on this one until the poll is over.
            self.lane.set_worker(None);
        }
        Some(Evidence { handed_off, ..evidence })
    }
}

impl Drop for Scope<'_> {
    #[inline]
    fn drop(&mut self) {
        let end = self.meter.shared.clock.now();
        let elapsed = end.saturating_sub(self.start);
        let nested = self.outer.as_ref().is_some_and(Outer::is_poll);
        if let Some(outer) = self.outer.take() {
            self.lane.slot.leave(outer);
        }
        self.meter.busy += elapsed;
        self.meter.polled_until = end;
        self.lane.cells(self.meter.route).poll(&self.meter.shared.bounds, self.meter.phase, elapsed);
        // Time that a poll inside has been blamed for already is not this one's too.
        let inside = self.lane.take_stalled_inside();
        let own = elapsed.saturating_sub(inside);
        let has_stalled = own > self.meter.shared.threshold();
        if has_stalled {
            self.stalled(own, end);
        }
        if nested {
            let told = if has_stalled { own } else { 0 };
            self.lane.set_stalled_inside(self.stalled_before + inside + told);
        }
        if !self.was_panicking && std::thread::panicking() {
            self.meter.outcome = Outcome::Panicked;
        }
    }
}
