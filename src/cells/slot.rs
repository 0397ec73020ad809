//! What a thread is polling right now, written by that thread and read by the watchdog.
//!
//! The writer stamps `start`, `span` and `mark`, then publishes them with `state`; on the way out it publishes an idle `state`. Each
//! `state` carries a number that never comes back, so a reader that finds the same `state` before and after it read the stamps
//! knows that they belong together.

use crate::outcome::Phase;
use crate::routes::RouteId;
use crate::sync::{AtomicU64, Ordering};

/// One poll, as a slot tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Poll {
    pub(crate) route: RouteId,
    pub(crate) phase: Phase,
    /// When it began, in ticks.
    pub(crate) start: u64,
    /// The request's `tracing` span, 0 for none.
    pub(crate) span: u64,
    /// An address in the stack frame that makes the poll: what the poll calls lies below it.
    pub(crate) mark: u64,
}

/// The place where a thread says what it is polling.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    state: AtomicU64,
    start: AtomicU64,
    span: AtomicU64,
    mark: AtomicU64,
}

/// What the thread was polling when a further measured poll began inside that poll.
#[derive(Clone, Copy, Debug)]
#[must_use = "a slot that was entered must be left"]
pub(crate) struct Outer(Option<Poll>);

/// `state`: a running number, the route, the phase, and whether a poll is going on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u64);

// === impl Outer ===

impl Outer {
    /// Whether there was a poll around the one that began.
    pub(crate) fn is_poll(&self) -> bool {
        self.0.is_some()
    }
}

// === impl Slot ===

impl Slot {
    /// Says that `poll` begins. Only the thread that owns the slot may call this.
    #[inline]
    pub(crate) fn enter(&self, poll: Poll) -> Outer {
        let outer = self.own();
        self.publish(poll);
        Outer(outer)
    }

    /// Says that the poll is over and `outer` goes on, if there was one. Only the owner may call this.
    #[inline]
    pub(crate) fn leave(&self, outer: Outer) {
        match outer.0 {
            None => {
                let idle = State(self.state.load(Ordering::Relaxed)).idle();
                self.state.store(idle.0, Ordering::Release);
            }
            Some(poll) => self.publish(poll),
        }
    }

    /// What the owner itself is polling. Only the owner may call this.
    #[inline]
    pub(crate) fn own(&self) -> Option<Poll> {
        let state = State(self.state.load(Ordering::Relaxed));
        state.is_active().then(|| Poll {
            route: state.route(),
            phase: state.phase(),
            start: self.start.load(Ordering::Relaxed),
            span: self.span.load(Ordering::Relaxed),
            mark: self.mark.load(Ordering::Relaxed),
        })
    }

    /// What the thread is polling, for any reader. `None` also where it changed while it was read: then nothing is stuck.
    pub(crate) fn read(&self) -> Option<Poll> {
        let state = State(self.state.load(Ordering::Acquire));
        if !state.is_active() {
            return None;
        }
        // Acquire, the partner of the Release in `publish`: who reads a later poll's stamp reads a later state below.
        let start = self.start.load(Ordering::Acquire);
        let span = self.span.load(Ordering::Acquire);
        let mark = self.mark.load(Ordering::Acquire);
        let unchanged = State(self.state.load(Ordering::Relaxed)) == state;
        unchanged.then(|| Poll { route: state.route(), phase: state.phase(), start, span, mark })
    }

    /// A number that grows with every poll.
    pub(crate) fn activity(&self) -> u64 {
        State(self.state.load(Ordering::Relaxed)).number()
    }

    #[inline]
    fn publish(&self, poll: Poll) {
        let last = State(self.state.load(Ordering::Relaxed));
        self.state.store(last.idle().0, Ordering::Relaxed);
        self.start.store(poll.start, Ordering::Release);
        self.span.store(poll.span, Ordering::Release);
        self.mark.store(poll.mark, Ordering::Release);
        self.state.store(last.next(poll.route, poll.phase).0, Ordering::Release);
    }
}

// === impl State ===

impl State {
    const ACTIVE: u64 = 1;
    const BODY: u64 = 1 << 1;
    const ROUTE_SHIFT: u32 = 2;
    const NUMBER_SHIFT: u32 = Self::ROUTE_SHIFT + RouteId::BITS;

    #[inline]
    fn next(self, route: RouteId, phase: Phase) -> Self {
        let phase = match phase {
            Phase::Handler => 0,
            Phase::Body => Self::BODY,
        };
        let number = self.number().wrapping_add(1) << Self::NUMBER_SHIFT;
        Self(number | u64::from(route.get()) << Self::ROUTE_SHIFT | phase | Self::ACTIVE)
    }

    #[inline]
    fn idle(self) -> Self {
        Self(self.0 & !Self::ACTIVE)
    }

    #[inline]
    fn is_active(self) -> bool {
        self.0 & Self::ACTIVE != 0
    }

    #[inline]
    fn route(self) -> RouteId {
        RouteId::from_bits(self.0 >> Self::ROUTE_SHIFT)
    }

    #[inline]
    fn phase(self) -> Phase {
        if self.0 & Self::BODY == 0 { Phase::Handler } else { Phase::Body }
    }

    #[inline]
    fn number(self) -> u64 {
        self.0 >> Self::NUMBER_SHIFT
    }
}

#[cfg(all(test, not(tower_stall_loom)))]
mod tests {
    use super::*;

    fn poll(route: u64, start: u64) -> Poll {
        Poll { route: RouteId::from_bits(route), phase: Phase::Body, start, span: start + 1, mark: start + 2 }
    }

    #[test]
    fn a_slot_tells_the_poll_that_goes_on() {
        let slot = Slot::default();
        assert_eq!(slot.read(), None);
        let outer = slot.enter(poll(7, 100));
        assert_eq!(slot.read(), Some(poll(7, 100)));
        slot.leave(outer);
        assert_eq!(slot.read(), None);
        assert_eq!(slot.activity(), 1);
    }

    #[test]
    fn the_innermost_poll_shows_and_the_outer_one_comes_back() {
        let slot = Slot::default();
        let none = slot.enter(poll(u64::from(u16::MAX), 100));
        let outer = slot.enter(poll(8, 200));
        assert_eq!(slot.read(), Some(poll(8, 200)));
        slot.leave(outer);
        assert_eq!(slot.read(), Some(poll(u64::from(u16::MAX), 100)));
        slot.leave(none);
        assert_eq!(slot.read(), None);
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use super::*;
    use ::loom::{sync::Arc, thread};

    fn poll(number: u64) -> Poll {
        Poll {
            route: RouteId::from_bits(number),
            phase: Phase::Handler,
            start: number * 100,
            span: number * 7,
            mark: number * 3,
        }
    }

    /// The reader is the spawned thread: loom lets it see old values only then.
    fn reads_match(writes: impl Fn(&Slot) + Send + Sync + 'static) {
        ::loom::model(move || {
            let slot = Arc::new(Slot::default());
            let reader = {
                let slot = Arc::clone(&slot);
                thread::spawn(move || {
                    if let Some(read) = slot.read() {
                        assert_eq!(read, poll(u64::from(read.route.get())), "one poll's stamps beside another's route");
                    }
                })
            };
            writes(&slot);
            assert_eq!(slot.read(), None);
            reader.join().unwrap();
        });
    }

    /// A test that a reader never pairs one poll's start with another's route.
    #[test]
    fn loom_polls_one_after_another() {
        reads_match(|slot| {
            for number in 1..=2 {
                let outer = slot.enter(poll(number));
                slot.leave(outer);
            }
        });
    }

    /// A test that the outer poll is whole again after a nested one.
    #[test]
    fn loom_polls_inside_each_other() {
        reads_match(|slot| {
            let none = slot.enter(poll(1));
            let outer = slot.enter(poll(2));
            slot.leave(outer);
            slot.leave(none);
        });
    }
}
