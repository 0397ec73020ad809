//! The drop guard of one poll.
//!
//! `end` takes the guard by value, and the drop is for panics alone: a closure around the poll
//! would copy its result twice more (32 instructions per poll), because no compiler moves a copy
//! over the atomic stores in between.

use std::mem::{ManuallyDrop, MaybeUninit};
use std::task::Waker;

use super::attribution;
use super::ended_stall;
use super::record::{RequestRecord, RequestState};
use super::schedule_latency;
use crate::routes::RouteId;
use crate::shard::{PollInfo, Shard};
use crate::stall::Phase;

/// One poll in progress. [`end`](Self::end) ends it, or its drop if the poll unwinds.
///
/// One word, and the phase is a constant: the state has everything else, which would otherwise be
/// copied from registers to the stack and back.
///
/// The duration of a poll is `end.wrapping_sub(poll_start)`, and one comparison decides whether it
/// is on the fast path, because everything unusual looks like a long poll:
///
/// | case | duration |
/// |---|---|
/// | a short poll | within `Thresholds::fast_path` |
/// | a long poll | above it |
/// | a nested poll, whose start has the bit `NESTED` | about 2^63 or more |
/// | a clock that ran backwards | wraps to about 2^63 or more |
pub(crate) struct PollGuard<'a, const PHASE: usize>(&'a mut RequestState);

/// A place in the stack frame that calls the inner poll: the frames of the inner poll are below it.
pub(crate) struct StackMark(MaybeUninit<u8>);

/// [`Phase::Handler`] and [`Phase::Body`], as constants.
pub(crate) const HANDLER: usize = Phase::Handler as usize;
pub(crate) const BODY: usize = Phase::Body as usize;

/// The bit of `poll_start` that marks a poll inside another one. No clock reaches it.
const NESTED: u64 = 1 << 63;

// === impl PollGuard ===

impl<'a, const PHASE: usize> PollGuard<'a, PHASE> {
    const PHASE: Phase = Phase::ALL[PHASE];

    /// Begins a poll by `task`, and returns the waker for it. Also records the schedule latency, if
    /// a wake led to the poll.
    #[inline(always)]
    pub(crate) fn begin_poll(
        record: &'a mut RequestRecord,
        task: &'a Waker,
        mark: &StackMark,
    ) -> (Self, &'a Waker) {
        let (state, waker) = record.parts();
        let shard = &*state.shard;
        let start = shard.context.clock.now();
        let waker = waker
            .for_poll(task, |woken_at| schedule_latency::record(state, shard, woken_at, start));
        let info = || Self::info(state.route, state.span, start, mark);
        state.activity.poll(start);
        publish(shard, &mut state.poll_start, start, info);
        (Self(state), waker)
    }

    /// Begins the call that the request started with, which counts as a poll.
    #[inline(always)]
    pub(crate) fn begin_call(record: &'a mut RequestRecord, mark: &StackMark) -> Self {
        let (state, _) = record.parts();
        let start = state.start;
        let info = || Self::info(state.route, state.span, start, mark);
        state.activity.poll(start);
        publish(&state.shard, &mut state.poll_start, start, info);
        Self(state)
    }

    #[inline(always)]
    fn info(route: RouteId, span: u64, start: u64, mark: &StackMark) -> PollInfo {
        PollInfo { route, phase: Self::PHASE, start, span, stack_mark: mark.address() }
    }

    #[inline(always)]
    pub(crate) fn end(self) {
        ManuallyDrop::new(self).finish();
    }

    #[inline(always)]
    fn finish(&mut self) {
        let state = &mut *self.0;
        let (shard, counters) = (&*state.shard, &*state.counters);
        let end = shard.context.clock.now();
        shard.current_poll.leave();
        let mut ticks = end.wrapping_sub(state.poll_start);
        if ticks <= shard.context.thresholds.fast_path() {
            counters.add_fast_poll(Self::PHASE, ticks);
        } else {
            ticks = record_slow_path(state, Self::PHASE, end);
        }
        state.busy += ticks;
        state.last_poll_end = end;
    }
}

impl<const PHASE: usize> Drop for PollGuard<'_, PHASE> {
    /// Runs only if the poll unwinds.
    #[cold]
    fn drop(&mut self) {
        self.finish();
        self.0.on_panic();
    }
}

// === impl StackMark ===

impl StackMark {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    #[inline(always)]
    fn address(&self) -> u64 {
        self.0.as_ptr().addr() as u64
    }
}

/// Publishes the start of a poll, and suspends the one that it is nested in.
#[inline(always)]
fn publish(shard: &Shard, poll_start: &mut u64, start: u64, info: impl FnOnce() -> PollInfo) {
    *poll_start = start;
    if shard.current_poll.is_active() {
        suspend_outer_poll(shard, poll_start);
    }
    shard.current_poll.enter(info());
    shard.context.notifier.notify();
}

#[cold]
fn suspend_outer_poll(shard: &Shard, poll_start: &mut u64) {
    shard.current_poll.suspend();
    *poll_start |= NESTED;
}

/// Records a poll that is not in the first bucket, or that is nested. Returns its duration in
/// ticks.
#[cold]
fn record_slow_path(state: &RequestState, phase: Phase, end: u64) -> u64 {
    let shard = &*state.shard;
    let start = state.poll_start & !NESTED;
    let ticks = end.saturating_sub(start);
    state.counters.add_poll(&shard.context.bounds, phase, ticks);
    shard.context.lateness.record_delay(ticks, end);
    let stalled = ended_stall::own_stall(shard, start, ticks);
    if start != state.poll_start {
        shard.current_poll.resume();
    }
    if stalled.is_none() {
        attribution::record_poll(state, start, end);
    }
    // Last, because it calls the subscriber, which may panic: the slot is consistent by then.
    if let Some(stalled) = stalled {
        ended_stall::send(state, phase, start, stalled, end);
    }
    ticks
}
