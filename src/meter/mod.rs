//! The measurement of one request: it rides from the call through the future to the body, and its drop is the record.

mod answer;

use std::mem::ManuallyDrop;
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
        if account.own.lane.slot.is_active() && is_inside_a_request(&account.own, shared) {
            own::keep(record);
            return Self::default();
        }
        let route = route(&account.own);
        account.set_route(route);
        account.own.lane.request_started();
        account.begin(span);
        account.is_request = true;
        account.is_head = method == Method::HEAD;
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
        account.is_request = false;
        Self(Some(record))
    }

    /// What it measures, where it can on this thread: nothing once the monitor is gone.
    #[inline(always)]
    pub(crate) fn here(&mut self) -> Option<&mut Record> {
        if self.0.as_ref().is_some_and(|record| !record.account.own.is_here()) {
            self.move_here();
        }
        self.0.as_deref_mut()
    }

    /// What it measures, if anything. For the call that the request begins with, which is on the thread that it begins on.
    #[inline(always)]
    pub(crate) fn record(&mut self) -> Option<&mut Record> {
        self.0.as_deref_mut()
    }

    /// Ends what it measures.
    #[inline]
    pub(crate) fn end(&mut self, outcome: Outcome) {
        if let Some(mut record) = self.0.take() {
            record.account.outcome = outcome;
            end(record);
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
fn is_inside_a_request(own: &Own, shared: &Shared) -> bool {
    own.lane.slot.own().is_some_and(|poll| !shared.routes.is_task(poll.route))
}

impl Drop for Meter {
    #[inline]
    fn drop(&mut self) {
        if let Some(record) = self.0.take() {
            end(record);
        }
    }
}

fn end(mut record: Box<Record>) {
    let account = &mut record.account;
    if !account.own.is_here() && !account.follow() {
        return;
    }
    account.end();
    own::keep(record);
}

// === impl Record ===

impl Record {
    /// Begins a poll, by `task`, and lends a waker for it. Measures the delay since the wake that led to it, too.
    ///
    /// `mark` is a place in the frame of the caller: what the poll calls lies below it.
    #[inline(always)]
    pub(crate) fn poll<'a, const PHASE: usize>(
        &'a mut self,
        task: &'a Waker,
        mark: &u8,
    ) -> (Polling<'a, PHASE>, &'a Waker) {
        let Self { account, wakes } = self;
        account.poll_start = account.own.clock.now();
        account.woken = wakes.take();
        (Polling::begin(account, mark), wakes.lend(task))
    }

    /// Begins the call that the request began with, which counts as a poll.
    #[inline(always)]
    pub(crate) fn call<'a>(&'a mut self, mark: &u8) -> Polling<'a, HANDLER> {
        Polling::begin(&mut self.account, mark)
    }
}

// === impl Account ===

impl Account {
    #[inline]
    fn begin(&mut self, span: u64) {
        self.cells.start();
        let now = self.own.clock.now();
        self.outcome = Outcome::Cancelled;
        self.start = now;
        self.busy = 0;
        self.poll_start = now;
        self.polled_until = now;
        self.woken = 0;
        self.span = span;
    }

    #[inline]
    fn end(&self) {
        let duration = self.own.clock.now().saturating_sub(self.start);
        self.cells.end(&self.own.bounds, self.outcome, duration, self.busy);
        if self.is_request {
            self.own.lane.request_ended();
        }
    }
}

// === impl Polling ===

impl<'a, const PHASE: usize> Polling<'a, PHASE> {
    const OF: Phase = Phase::ALL[PHASE];

    #[inline(always)]
    fn begin(account: &'a mut Account, mark: &u8) -> Self {
        let Account { route, poll_start: start, span, .. } = *account;
        let mark = std::ptr::from_ref(mark).addr() as u64;
        account.own.lane.slot.enter(Poll { route, phase: Self::OF, start, span, mark });
        account.own.alarm.wake();
        Self(account)
    }

    #[inline(always)]
    pub(crate) fn end(self) {
        ManuallyDrop::new(self).account();
    }

    #[inline(always)]
    fn account(&mut self) {
        let account = &mut *self.0;
        let (own, cells, start) = (&*account.own, &*account.cells, account.poll_start);
        let end = own.clock.now();
        own.lane.slot.leave();
        // If the clock ran backwards it seems very long, and is looked at closely.
        let mut ticks = end.wrapping_sub(start);
        if ticks <= own.limits.quick() {
            cells.quick_poll(Self::OF, ticks);
        } else {
            ticks = long_poll(account, Self::OF, end);
        }
        if account.woken != 0 {
            // A future that wakes itself could not have been polled before its poll was over.
            let ready = account.woken.max(account.polled_until);
            cells.schedule_delay(&own.bounds, start.wrapping_sub(ready));
        }
        if own.lane.slot.is_inside() {
            own.lane.slot.resume();
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

// === a poll that held its thread for long ===

/// Accounts for a poll that is not in the first bucket. Its length, in ticks.
#[cold]
fn long_poll(account: &Account, phase: Phase, end: u64) -> u64 {
    let own = &*account.own;
    let ticks = end.saturating_sub(account.poll_start);
    account.cells.poll(&own.bounds, phase, ticks);
    if ticks > own.limits.stall() {
        held_long(account, phase, end);
    }
    ticks
}

fn held_long(account: &Account, phase: Phase, end: u64) {
    let Account { own, route, span, poll_start: start, .. } = account;
    let slot = &own.lane.slot;
    // Time that polls inside have been blamed for already is not this one's too.
    let inside = slot.stalled(*start);
    let alone = (end - start).saturating_sub(inside);
    if alone > own.limits.stall() {
        slot.set_stalled(*start, inside + alone);
        stalled(account, Poll { route: *route, phase, start: *start, span: *span, mark: 0 }, alone, end);
    }
}

/// A poll that held its thread longer than the threshold: one message to the reporter.
fn stalled(account: &Account, poll: Poll, ticks: u64, end: u64) {
    let own = &*account.own;
    let Some(shared) = own.shared() else { return };
    let (lane, start) = (&own.lane, poll.start);
    let evidence = evidence(lane, &shared, start, end);
    let finished = Finished {
        of: lane.subject(start),
        poll,
        ticks,
        end,
        threshold: own.limits.stall(),
        worker: lane.worker(),
        held_up: shared.held_up_by(poll.route),
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

#[cfg(all(test, not(tower_stall_loom)))]
mod tests;
