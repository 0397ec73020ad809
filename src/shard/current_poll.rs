//! The current-poll slot of a thread: a seqlock that the thread writes and the watchdog reads.
//!
//! The writer stores the description of the poll, then publishes it by storing its start; at the
//! end it stores the complement of the start, which means idle. No two polls of a thread begin in
//! the same tick, so a reader that finds the same start before and after reading the description
//! knows that the two belong together. (Where a clock is so coarse that two polls do begin in one
//! tick, the first has taken no time, and the start is true of both.) Only a suspended poll comes
//! back with its old start; these returns are counted, and the reader compares the count, too.

use super::histogram::add;
use super::poll::PollInfo;
use crate::sync::{AtomicU64, Ordering};

/// What a thread is polling now.
#[derive(Debug)]
pub(crate) struct CurrentPoll {
    /// Start of the current poll in ticks; the complement of the last start while idle.
    start: AtomicU64,
    route_and_phase: AtomicU64,
    span: AtomicU64,
    stack_mark: AtomicU64,
    /// The number of suspended polls, including those past `MAX_NESTING`.
    nesting: AtomicU64,
    /// How often a suspended poll has become the current one again.
    resumptions: AtomicU64,
    suspended: [SuspendedPoll; CurrentPoll::MAX_NESTING],
    /// The start of a poll, and for how long it and the polls nested in it have stalled, in ticks.
    /// Read and written only by the owner.
    stalled: [AtomicU64; 2],
}

/// A poll inside which another measured poll runs. Read and written only by the owner.
#[derive(Debug, Default)]
struct SuspendedPoll {
    start: AtomicU64,
    route_and_phase: AtomicU64,
    span: AtomicU64,
    stack_mark: AtomicU64,
    /// For how long polls nested in it have stalled, in ticks.
    stalled: AtomicU64,
}

// === impl CurrentPoll ===

impl CurrentPoll {
    /// The nesting levels that are tracked, such as an instrumented task, a server inside it, and a
    /// request inside that.
    const MAX_NESTING: usize = 8;
    /// The start of a poll that is in progress, but whose description is lost.
    const UNKNOWN: u64 = i64::MAX as u64;

    /// Returns whether the owner is inside a poll. Must only be called by the owner.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        is_active(self.start.load(Ordering::Relaxed))
    }

    /// Publishes the start of `poll`. Must only be called by the owner, which pushes the poll that
    /// is current before, if there is one.
    #[inline(always)]
    pub(crate) fn enter(&self, poll: PollInfo) {
        // Release: pairs with the Acquire in `read`. A reader that sees a word of the description
        // sees a start no older than the end of the poll before.
        self.route_and_phase.store(poll.route_and_phase(), Ordering::Release);
        self.span.store(poll.span, Ordering::Release);
        self.stack_mark.store(poll.stack_mark, Ordering::Release);
        self.start.store(poll.start, Ordering::Release);
    }

    /// Publishes the end of the current poll. Must only be called by the owner.
    #[inline]
    pub(crate) fn leave(&self) {
        // Release: pairs with the Acquire in `read`.
        self.start.store(!self.start.load(Ordering::Relaxed), Ordering::Release);
    }

    /// Suspends the current poll, because another one begins inside it. Must only be called by the
    /// owner.
    ///
    /// Beyond [`MAX_NESTING`](Self::MAX_NESTING) levels the description of the poll is lost.
    pub(crate) fn suspend(&self) {
        let nesting = self.nesting.load(Ordering::Relaxed);
        if let Some(suspended) = self.suspended.get(nesting as usize) {
            let start = self.start.load(Ordering::Relaxed);
            suspended.start.store(start, Ordering::Relaxed);
            copy(&self.route_and_phase, &suspended.route_and_phase);
            copy(&self.span, &suspended.span);
            copy(&self.stack_mark, &suspended.stack_mark);
            suspended.stalled.store(self.stalled(start), Ordering::Relaxed);
        }
        self.nesting.store(nesting + 1, Ordering::Relaxed);
        self.leave();
    }

    /// Makes the poll that was suspended last the current one again. Must only be called by the
    /// owner.
    pub(crate) fn resume(&self) {
        let nesting = self.nesting.load(Ordering::Relaxed) - 1;
        self.nesting.store(nesting, Ordering::Relaxed);
        let Some(suspended) = self.suspended.get(nesting as usize) else {
            // Release: pairs with the Acquire in `read`.
            return self.start.store(Self::UNKNOWN, Ordering::Release);
        };
        let stalled_inside = self.stalled(!self.start.load(Ordering::Relaxed));
        let [start, route_and_phase, span, stack_mark, stalled] = [
            &suspended.start,
            &suspended.route_and_phase,
            &suspended.span,
            &suspended.stack_mark,
            &suspended.stalled,
        ]
        .map(|word| word.load(Ordering::Relaxed));
        self.set_stalled(start, stalled + stalled_inside);
        // Release: pairs with the Acquire of the first load in `read`.
        add(&self.resumptions, 1, Ordering::Release);
        self.enter(PollInfo::from_words(route_and_phase, start, span, stack_mark));
    }

    /// Returns for how long the poll that began at `start` and the polls nested in it have stalled
    /// so far, in ticks. Must only be called by the owner.
    pub(crate) fn stalled(&self, start: u64) -> u64 {
        let [poll, ticks] = &self.stalled;
        if poll.load(Ordering::Relaxed) == start { ticks.load(Ordering::Relaxed) } else { 0 }
    }

    /// Sets for how long the poll that began at `start` and the polls nested in it have stalled.
    /// Must only be called by the owner.
    pub(crate) fn set_stalled(&self, start: u64, ticks: u64) {
        self.stalled[0].store(start, Ordering::Relaxed);
        self.stalled[1].store(ticks, Ordering::Relaxed);
    }

    /// Returns what the thread is polling. May be called by any thread.
    ///
    /// Also returns `None` if the poll changed while it was read, in which case nothing stalls.
    pub(crate) fn read(&self) -> Option<PollInfo> {
        // Acquire: pairs with the Release in `pop`.
        let resumptions = self.resumptions.load(Ordering::Acquire);
        // Acquire, here and below: pairs with the Release in `enter`, `leave` and `pop`.
        let start = self.start.load(Ordering::Acquire);
        if !is_active(start) || start == Self::UNKNOWN {
            return None;
        }
        let [route_and_phase, span, stack_mark] =
            [&self.route_and_phase, &self.span, &self.stack_mark]
                .map(|word| word.load(Ordering::Acquire));
        let is_unchanged = self.start.load(Ordering::Acquire) == start
            && self.resumptions.load(Ordering::Relaxed) == resumptions;
        is_unchanged.then(|| PollInfo::from_words(route_and_phase, start, span, stack_mark))
    }

    /// Returns a number that changes with every poll; 0 before the first one, so that a new slot
    /// does not count as activity.
    pub(crate) fn activity(&self) -> u64 {
        self.start.load(Ordering::Relaxed).wrapping_add(1)
    }
}

impl Default for CurrentPoll {
    fn default() -> Self {
        Self {
            start: AtomicU64::new(!0),
            route_and_phase: AtomicU64::default(),
            span: AtomicU64::default(),
            stack_mark: AtomicU64::default(),
            nesting: AtomicU64::default(),
            resumptions: AtomicU64::default(),
            suspended: Default::default(),
            stalled: Default::default(),
        }
    }
}

/// No clock has run for so long that the highest bit of a start is set.
#[inline]
fn is_active(start: u64) -> bool {
    start as i64 >= 0
}

fn copy(from: &AtomicU64, to: &AtomicU64) {
    to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::RouteId;
    use crate::stall::Phase;

    fn poll(route: u64, start: u64) -> PollInfo {
        PollInfo {
            route: RouteId::from_bits(route),
            phase: Phase::Body,
            start,
            span: start + 1,
            stack_mark: start + 2,
        }
    }

    #[test]
    fn the_current_poll_is_readable_until_it_ends() {
        let current = CurrentPoll::default();
        assert_eq!((current.read(), current.activity()), (None, 0));
        current.enter(poll(7, 100));
        assert_eq!(current.read(), Some(poll(7, 100)));
        current.leave();
        assert_eq!(current.read(), None);
        let activity = current.activity();
        current.enter(poll(7, 200));
        current.leave();
        assert_ne!(current.activity(), activity);
    }

    #[test]
    fn a_nested_poll_hides_the_outer_one_until_it_ends() {
        let current = CurrentPoll::default();
        current.enter(poll(u64::from(u16::MAX), 100));
        current.suspend();
        assert_eq!(current.read(), None);
        current.enter(poll(8, 200));
        assert_eq!(current.read(), Some(poll(8, 200)));
        current.set_stalled(200, 5);
        current.leave();
        current.resume();
        assert_eq!(current.stalled(100), 5);
        assert_eq!(current.read(), Some(poll(u64::from(u16::MAX), 100)));
        current.leave();
        assert_eq!((current.read(), current.nesting.load(Ordering::Relaxed)), (None, 0));
    }

    #[test]
    fn nesting_beyond_the_maximum_loses_only_the_inner_descriptions() {
        const LEVELS: u64 = 2 * CurrentPoll::MAX_NESTING as u64;
        let current = CurrentPoll::default();
        for level in 0..LEVELS {
            current.enter(poll(level, level * 100));
            current.suspend();
        }
        for level in (0..LEVELS).rev() {
            let is_tracked = level < CurrentPoll::MAX_NESTING as u64;
            current.resume();
            assert_eq!(current.read(), is_tracked.then(|| poll(level, level * 100)));
            current.leave();
        }
        assert_eq!(current.nesting.load(Ordering::Relaxed), 0);
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use super::*;
    use crate::routes::RouteId;
    use crate::stall::Phase;
    use ::loom::{sync::Arc, thread};

    fn poll(number: u64) -> PollInfo {
        PollInfo {
            route: RouteId::from_bits(number),
            phase: Phase::Handler,
            start: number * 100,
            span: number * 7,
            stack_mark: number * 3,
        }
    }

    /// Checks that a reader never pairs the start of one poll with the description of another.
    ///
    /// The reader is the spawned thread: loom lets only that one see outdated values.
    fn reads_are_consistent(writes: impl Fn(&CurrentPoll) + Send + Sync + 'static) {
        ::loom::model(move || {
            let current = Arc::new(CurrentPoll::default());
            let reader = {
                let current = Arc::clone(&current);
                thread::spawn(move || {
                    if let Some(read) = current.read() {
                        assert_eq!(read, poll(u64::from(read.route.get())));
                    }
                })
            };
            writes(&current);
            assert_eq!(current.read(), None);
            reader.join().unwrap();
        });
    }

    #[test]
    fn loom_consecutive_polls_are_read_consistently() {
        reads_are_consistent(|current| {
            for number in 1..=2 {
                current.enter(poll(number));
                current.leave();
            }
        });
    }

    #[test]
    fn loom_nested_polls_are_read_consistently() {
        reads_are_consistent(|current| {
            current.enter(poll(1));
            current.suspend();
            current.enter(poll(2));
            current.leave();
            current.resume();
            current.leave();
        });
    }
}
