//! The measurement of one request: it rides from the call through the future to the body, and its drop is the record.

mod answer;

use std::mem::{ManuallyDrop, MaybeUninit};
use std::sync::Arc;
use std::task::Waker;

use crate::cells::{Lane, Poll};
use crate::evidence::Evidence;
use crate::os;
use crate::outcome::{Outcome, Phase};
use crate::own::{self, Account, Own, Record};
use crate::routes::{Method, RouteId};
use crate::shared::{Finished, Shared};
use crate::trace::SpanRef;

/// Measures one request, or one instrumented task, or nothing.
///
/// Started when it is made, accounted for when it is dropped, whatever happened in between. It is one word, so that futures, answers
/// and bodies are hardly larger for it.
#[derive(Debug, Default)]
pub(crate) struct Meter(Option<Box<Record>>);

/// One poll that goes on. `end` ends it, or its drop where it unwinds.
///
/// One word, and the phase a constant: what else it needs is in the account, as it would be copied from register to stack and back.
pub(crate) struct Polling<'a, const PHASE: usize>(&'a mut Account);

/// A place in the frame of whoever polls: what the poll calls lies below it.
pub(crate) struct Mark(MaybeUninit<u8>);

/// The phases, as constants.
pub(crate) const HANDLER: usize = Phase::Handler as usize;
pub(crate) const BODY: usize = Phase::Body as usize;

// === impl Meter ===

impl Meter {
    /// Measures a request, but for one inside a request that the same monitor measures already.
    #[inline]
    pub(crate) fn request(shared: &Arc<Shared>, method: Method, route: impl FnOnce(&Own) -> RouteId) -> Self {
        // First, as a subscriber may panic: then the request has not begun.
        let span = SpanRef::current_id();
        let mut record = own::record(shared);
        let account = &mut record.account;
        if account.lane.slot.is_active() && is_inside_a_request(&account.lane, shared) {
            own::keep(record);
            return Self::default();
        }
        let route = route(&account.own);
        account.set_route(route);
        account.lane.request_started();
        account.begin(span);
        account.method = method;
        Self(Some(record))
    }

    /// Measures a background task.
    pub(crate) fn task(shared: &Arc<Shared>, name: &str) -> Self {
        let span = SpanRef::current_id();
        let mut record = own::record(shared);
        let account = &mut record.account;
        let route = account.own.route(&shared.routes, Method::TASK, name);
        account.set_route(route);
        account.begin(span);
        account.method = Method::TASK;
        account.complete = Outcome::Success;
        Self(Some(record))
    }

    /// What it measures, where it can on this thread: nothing once the monitor is gone.
    #[inline(always)]
    pub(crate) fn here(&mut self) -> Option<&mut Record> {
        if self.0.as_ref().is_some_and(|record| !own::is_here(&record.account.lane)) {
            self.move_here();
        }
        self.0.as_deref_mut()
    }

    /// What it measures, if anything. For the call that the request begins with, which is on the thread that it begins on.
    #[inline(always)]
    pub(crate) fn record(&mut self) -> Option<&mut Record> {
        self.0.as_deref_mut()
    }

    /// Ends what it measures with the poll that is just over.
    #[inline(always)]
    pub(crate) fn end(&mut self) {
        if let Some(record) = self.0.take() {
            record.account.end(record.account.polled_until);
            own::keep(record);
        }
    }

    #[cold]
    fn move_here(&mut self) {
        let is_here = self.0.as_mut().is_some_and(|record| record.account.follow());
        if !is_here {
            // Nobody reads what it measures any more.
            self.0 = None;
        }
    }
}

#[cold]
fn is_inside_a_request(lane: &Lane, shared: &Shared) -> bool {
    lane.slot.read().is_some_and(|poll| !shared.routes.is_task(poll.route))
}

impl Drop for Meter {
    #[inline]
    fn drop(&mut self) {
        if let Some(record) = self.0.take() {
            end(record);
        }
    }
}

/// It was dropped: now is its end, on whatever thread.
fn end(mut record: Box<Record>) {
    let account = &mut record.account;
    if !own::is_here(&account.lane) && !account.follow() {
        return;
    }
    account.end(account.lane.common.clock.now());
    own::keep(record);
}

// === impl Record ===

impl Record {
    /// Begins a poll, by `task`, and lends a waker for it. Measures the delay since the wake that led to it, too.
    #[inline(always)]
    pub(crate) fn poll<'a, const PHASE: usize>(
        &'a mut self,
        task: &'a Waker,
        mark: &Mark,
    ) -> (Polling<'a, PHASE>, &'a Waker) {
        let Self { account, wakes, .. } = self;
        let lane = &*account.lane;
        let start = lane.common.clock.now();
        let waker = wakes.lend(task, |woken| account.delayed(lane, woken, start));
        let poll =
            || Poll { route: account.route, phase: Phase::ALL[PHASE], start, span: account.span, mark: mark.address() };
        begin(lane, &mut account.poll_start, start, poll);
        (Polling(account), waker)
    }

    /// Begins the call that the request began with, which counts as a poll.
    #[inline(always)]
    pub(crate) fn call<'a>(&'a mut self, mark: &Mark) -> Polling<'a, HANDLER> {
        let account = &mut self.account;
        let start = account.start;
        let poll =
            || Poll { route: account.route, phase: Phase::Handler, start, span: account.span, mark: mark.address() };
        begin(&account.lane, &mut account.poll_start, start, poll);
        Polling(account)
    }
}

// === impl Mark ===

impl Mark {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    #[inline(always)]
    fn address(&self) -> u64 {
        self.0.as_ptr().addr() as u64
    }
}

// === impl Account ===

impl Account {
    #[inline]
    fn begin(&mut self, span: u64) {
        self.cells.start();
        let now = self.lane.common.clock.now();
        self.outcome = Outcome::Cancelled;
        self.start = now;
        self.busy = 0;
        self.polled_until = now;
        self.span = span;
    }

    /// The poll that begins at `start` was led to by a wake at `woken`.
    #[inline(always)]
    fn delayed(&self, lane: &Lane, woken: u64, start: u64) {
        // A future that wakes itself could not have been polled before its poll was over.
        let ready = woken.max(self.polled_until);
        self.cells.schedule_delay(&lane.common.bounds, start.wrapping_sub(ready));
    }

    #[inline(always)]
    fn end(&self, until: u64) {
        let duration = until.saturating_sub(self.start);
        self.cells.end(&self.lane.common.bounds, self.outcome, duration, self.busy);
        if self.method != Method::TASK {
            self.lane.request_ended();
        }
    }
}

// === impl Polling ===

/// Says that a poll begins at `start`. That is marked where it is inside another one.
#[inline(always)]
fn begin(lane: &Lane, poll_start: &mut u64, start: u64, poll: impl FnOnce() -> Poll) {
    *poll_start = start;
    if lane.slot.is_active() {
        set_aside(lane, poll_start);
    }
    lane.slot.enter(poll());
    lane.common.alarm.wake();
}

impl<const PHASE: usize> Polling<'_, PHASE> {
    const OF: Phase = Phase::ALL[PHASE];

    #[inline(always)]
    pub(crate) fn end(self) {
        ManuallyDrop::new(self).account();
    }

    #[inline(always)]
    fn account(&mut self) {
        let account = &mut *self.0;
        let (lane, cells) = (&*account.lane, &*account.cells);
        let end = lane.common.clock.now();
        lane.slot.leave();
        // It seems very long if the clock ran backwards, or if it went on inside another one: then it is looked at closely.
        let mut ticks = end.wrapping_sub(account.poll_start);
        if ticks <= lane.common.limits.quick() {
            cells.quick_poll(Self::OF, ticks);
        } else {
            ticks = other_poll(account, Self::OF, end);
        }
        account.busy += ticks;
        account.polled_until = end;
    }
}

impl<const PHASE: usize> Drop for Polling<'_, PHASE> {
    /// The poll unwinds.
    #[cold]
    fn drop(&mut self) {
        self.account();
        self.0.outcome = Outcome::Panicked;
    }
}

// === a poll that is not like most ===

/// The mark of a poll inside another one.
const INSIDE: u64 = 1 << 63;

#[cold]
fn set_aside(lane: &Lane, poll_start: &mut u64) {
    lane.slot.set_aside();
    *poll_start |= INSIDE;
}

/// Accounts for a poll that is not in the first bucket, or was inside another one. Its length, in ticks.
#[cold]
fn other_poll(account: &Account, phase: Phase, end: u64) -> u64 {
    let lane = &*account.lane;
    let start = account.poll_start & !INSIDE;
    let ticks = end.saturating_sub(start);
    account.cells.poll(&lane.common.bounds, phase, ticks);
    let alone = blamed(lane, start, ticks);
    if start != account.poll_start {
        lane.slot.resume();
    }
    // Last, as it asks the subscriber, which may panic: then the slot is as it should be.
    if let Some(alone) = alone {
        stalled(account, Poll { route: account.route, phase, start, span: account.span, mark: 0 }, alone, end);
    }
    ticks
}

/// How long a poll has stalled, if it has. Time that polls inside have been blamed for already is not this one's too.
fn blamed(lane: &Lane, start: u64, ticks: u64) -> Option<u64> {
    let threshold = lane.common.limits.stall();
    if ticks <= threshold {
        return None;
    }
    let inside = lane.slot.stalled(start);
    let alone = ticks.saturating_sub(inside);
    if alone <= threshold {
        return None;
    }
    lane.slot.set_stalled(start, inside + alone);
    Some(alone)
}

/// A poll that held its thread longer than the threshold: one message to the reporter.
fn stalled(account: &Account, poll: Poll, ticks: u64, end: u64) {
    let Some(shared) = account.own.shared() else { return };
    let (lane, start) = (&account.lane, poll.start);
    let evidence = evidence(lane, &shared, start, end);
    let finished = Finished {
        of: lane.subject(start),
        poll,
        ticks,
        end,
        threshold: lane.common.limits.stall(),
        worker: lane.worker(),
        held_up: shared.held_up_by(poll.route),
        io_starved: lane.watched.is_starved(start),
        rescued: lane.watched.is_rescued(start),
        evidence,
        span: SpanRef::current(),
    };
    if !shared.inbox.finished(finished) {
        account.cells.unreported_stall(&lane.common.bounds, ticks);
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

#[cfg(all(test, not(tower_stall_loom)))]
mod tests;
