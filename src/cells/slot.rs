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
    /// How many polls are set aside, as further measured polls go on inside them.
    depth: AtomicU64,
    aside: [Aside; Slot::DEEPEST],
    /// A poll, by its start, and how long it and those inside it have stalled, in ticks. For the owner alone.
    stalled: [AtomicU64; 2],
}

/// A poll that was set aside. The owner alone reads it.
#[derive(Debug, Default)]
struct Aside {
    state: AtomicU64,
    start: AtomicU64,
    span: AtomicU64,
    mark: AtomicU64,
    /// How long polls inside it have stalled.
    stalled: AtomicU64,
}

/// `state`: a running number, the route, the phase, and whether a poll is going on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u64);

// === impl Slot ===

impl Slot {
    /// Polls inside polls: an instrumented task, a server in it, a request, and then some.
    const DEEPEST: usize = 8;

    /// Whether the owner is polling something. Only the owner may call this.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        self.state().is_active()
    }

    /// Says that `poll` begins, inside another one if that goes on. Only the thread that owns the slot may call this.
    #[inline(always)]
    pub(crate) fn enter(&self, poll: Poll) {
        let mut idle = self.state();
        if idle.is_active() {
            self.set_aside();
            idle = self.state();
        }
        self.start.store(poll.start, Ordering::Release);
        self.span.store(poll.span, Ordering::Release);
        self.mark.store(poll.mark, Ordering::Release);
        self.state.store(idle.next(poll.route, poll.phase).0, Ordering::Release);
    }

    /// Says that the poll is over. Only the owner may call this.
    #[inline]
    pub(crate) fn leave(&self) {
        self.state.store(self.state().idle().0, Ordering::Release);
    }

    /// Sets the poll that goes on aside, as another one begins inside it. Only the owner may call this.
    ///
    /// Past [`DEEPEST`](Self::DEEPEST), the poll is not shown again when the inner one is over.
    #[cold]
    fn set_aside(&self) {
        let depth = self.depth.load(Ordering::Relaxed);
        if let Some(aside) = self.aside.get(depth as usize) {
            let poll = self.stamped();
            aside.state.store(self.state().0, Ordering::Relaxed);
            aside.start.store(poll.start, Ordering::Relaxed);
            aside.span.store(poll.span, Ordering::Relaxed);
            aside.mark.store(poll.mark, Ordering::Relaxed);
            aside.stalled.store(self.stalled(poll.start), Ordering::Relaxed);
        }
        self.depth.store(depth + 1, Ordering::Relaxed);
        self.leave();
    }

    /// Whether a poll is set aside. Only the owner may call this.
    #[inline]
    pub(crate) fn is_inside(&self) -> bool {
        self.depth.load(Ordering::Relaxed) != 0
    }

    /// Goes on with the poll that was set aside last. Only the owner may call this.
    #[cold]
    pub(crate) fn resume(&self) {
        let depth = self.depth.load(Ordering::Relaxed) - 1;
        self.depth.store(depth, Ordering::Relaxed);
        let Some(aside) = self.aside.get(depth as usize) else { return };
        let inner = self.stalled(self.start.load(Ordering::Relaxed));
        let state = State(aside.state.load(Ordering::Relaxed));
        let [start, span, mark] = [&aside.start, &aside.span, &aside.mark].map(|cell| cell.load(Ordering::Relaxed));
        self.set_stalled(start, aside.stalled.load(Ordering::Relaxed) + inner);
        self.enter(Poll { route: state.route(), phase: state.phase(), start, span, mark });
    }

    /// How long the poll that began at `start` and those inside it have stalled so far, in ticks. Only the owner may call this.
    pub(crate) fn stalled(&self, start: u64) -> u64 {
        let [poll, ticks] = &self.stalled;
        if poll.load(Ordering::Relaxed) == start { ticks.load(Ordering::Relaxed) } else { 0 }
    }

    /// Sets how long the poll that began at `start` and those inside it have stalled. Only the owner may call this.
    pub(crate) fn set_stalled(&self, start: u64, ticks: u64) {
        self.stalled[0].store(start, Ordering::Relaxed);
        self.stalled[1].store(ticks, Ordering::Relaxed);
    }

    /// What the owner itself is polling. Only the owner may call this.
    pub(crate) fn own(&self) -> Option<Poll> {
        self.is_active().then(|| self.stamped())
    }

    /// The poll that was stamped last. Only the owner may call this.
    pub(crate) fn stamped(&self) -> Poll {
        Poll {
            route: self.state().route(),
            phase: self.state().phase(),
            start: self.start.load(Ordering::Relaxed),
            span: self.span.load(Ordering::Relaxed),
            mark: self.mark.load(Ordering::Relaxed),
        }
    }

    /// The state, for the owner.
    #[inline]
    fn state(&self) -> State {
        State(self.state.load(Ordering::Relaxed))
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
}

// === impl State ===

impl State {
    const ACTIVE: u64 = 1;
    const BODY: u64 = 1 << 1;
    const ROUTE_SHIFT: u32 = 2;
    const NUMBER_SHIFT: u32 = Self::ROUTE_SHIFT + RouteId::BITS;
    const BELOW_NUMBER: u64 = (1 << Self::NUMBER_SHIFT) - 1;

    #[inline]
    fn next(self, route: RouteId, phase: Phase) -> Self {
        let phase = match phase {
            Phase::Handler => 0,
            Phase::Body => Self::BODY,
        };
        // The carry past what is below the number.
        let number = (self.0 | Self::BELOW_NUMBER).wrapping_add(1);
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
        slot.enter(poll(7, 100));
        assert_eq!(slot.read(), Some(poll(7, 100)));
        slot.leave();
        assert_eq!(slot.read(), None);
        assert_eq!(slot.activity(), 1);
    }

    #[test]
    fn the_innermost_poll_shows_and_the_outer_one_comes_back() {
        let slot = Slot::default();
        slot.enter(poll(u64::from(u16::MAX), 100));
        slot.set_aside();
        assert_eq!(slot.read(), None);
        slot.enter(poll(8, 200));
        assert_eq!(slot.read(), Some(poll(8, 200)));
        slot.set_stalled(200, 5);
        slot.leave();
        slot.resume();
        assert_eq!(slot.stalled(100), 5);
        assert_eq!(slot.read(), Some(poll(u64::from(u16::MAX), 100)));
        slot.leave();
        assert_eq!((slot.read(), slot.is_inside()), (None, false));
    }

    #[test]
    fn polls_inside_each_other_come_back_one_by_one_however_many() {
        const MANY: u64 = 2 * Slot::DEEPEST as u64;
        let slot = Slot::default();
        for depth in 0..MANY {
            slot.enter(poll(depth, depth * 100));
            slot.set_aside();
        }
        for depth in (0..MANY).rev() {
            assert!(slot.is_inside());
            let is_kept = depth < Slot::DEEPEST as u64;
            slot.resume();
            assert_eq!(slot.read(), is_kept.then(|| poll(depth, depth * 100)));
            slot.leave();
        }
        assert!(!slot.is_inside());
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
                slot.enter(poll(number));
                slot.leave();
            }
        });
    }

    /// A test that the outer poll is whole again after a nested one.
    #[test]
    fn loom_polls_inside_each_other() {
        reads_match(|slot| {
            slot.enter(poll(1));
            slot.set_aside();
            slot.enter(poll(2));
            slot.leave();
            slot.resume();
            slot.leave();
        });
    }
}
