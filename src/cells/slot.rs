//! What a thread is polling right now, written by that thread and read by the watchdog.
//!
//! The writer stamps what the poll is of, then publishes it with `state`: when the poll began. On the way out it publishes an idle
//! `state`. No two polls of a thread begin in the same tick, so a reader that finds the same `state` before and after it read the
//! stamps knows that they belong together. (Where a clock is so coarse that two of them do, the first has taken no time, and both
//! began then.) Only a poll that was set aside comes back with its old `state`, and how often that happens is counted.

use super::histogram::add;
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
#[derive(Debug)]
pub(crate) struct Slot {
    /// When the poll began that goes on; all bits turned over once it is over.
    state: AtomicU64,
    /// Its route and phase.
    of: AtomicU64,
    span: AtomicU64,
    mark: AtomicU64,
    /// How many polls are set aside, as further measured polls go on inside them.
    depth: AtomicU64,
    /// How often a poll that was set aside came back.
    resumed: AtomicU64,
    aside: [Aside; Slot::DEEPEST],
    /// A poll, by its start, and how long it and those inside it have stalled, in ticks. For the owner alone.
    stalled: [AtomicU64; 2],
}

/// A poll that was set aside. The owner alone reads it.
#[derive(Debug, Default)]
struct Aside {
    start: AtomicU64,
    of: AtomicU64,
    span: AtomicU64,
    mark: AtomicU64,
    /// How long polls inside it have stalled.
    stalled: AtomicU64,
}

// === impl Slot ===

impl Slot {
    /// Polls inside polls: an instrumented task, a server in it, a request, and then some.
    const DEEPEST: usize = 8;
    /// The `state` of a poll that goes on, but of which nothing is known any more.
    const HIDDEN: u64 = i64::MAX as u64;

    /// Whether the owner is polling something. Only the owner may call this.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        is_active(self.state.load(Ordering::Relaxed))
    }

    /// Says that `poll` begins. Only the thread that owns the slot may call this, and sets aside what goes on before.
    #[inline(always)]
    pub(crate) fn enter(&self, poll: Poll) {
        // Release, the partner of the Acquire in `read`: who reads a stamp reads a `state` no older than the end of the poll before.
        self.of.store(poll.of(), Ordering::Release);
        self.span.store(poll.span, Ordering::Release);
        self.mark.store(poll.mark, Ordering::Release);
        self.state.store(poll.start, Ordering::Release);
    }

    /// Says that the poll is over. Only the owner may call this.
    #[inline]
    pub(crate) fn leave(&self) {
        self.state.store(!self.state.load(Ordering::Relaxed), Ordering::Release);
    }

    /// Sets the poll that goes on aside, as another one begins inside it. Only the owner may call this.
    ///
    /// Past [`DEEPEST`](Self::DEEPEST), the poll is hidden when the inner one is over.
    pub(crate) fn set_aside(&self) {
        let depth = self.depth.load(Ordering::Relaxed);
        if let Some(aside) = self.aside.get(depth as usize) {
            let start = self.state.load(Ordering::Relaxed);
            aside.start.store(start, Ordering::Relaxed);
            aside.of.store(self.of.load(Ordering::Relaxed), Ordering::Relaxed);
            aside.span.store(self.span.load(Ordering::Relaxed), Ordering::Relaxed);
            aside.mark.store(self.mark.load(Ordering::Relaxed), Ordering::Relaxed);
            aside.stalled.store(self.stalled(start), Ordering::Relaxed);
        }
        self.depth.store(depth + 1, Ordering::Relaxed);
        self.leave();
    }

    /// Goes on with the poll that was set aside last. Only the owner may call this.
    pub(crate) fn resume(&self) {
        let depth = self.depth.load(Ordering::Relaxed) - 1;
        self.depth.store(depth, Ordering::Relaxed);
        let Some(aside) = self.aside.get(depth as usize) else {
            return self.state.store(Self::HIDDEN, Ordering::Release);
        };
        let inner = self.stalled(!self.state.load(Ordering::Relaxed));
        let [start, of, span, mark] =
            [&aside.start, &aside.of, &aside.span, &aside.mark].map(|cell| cell.load(Ordering::Relaxed));
        self.set_stalled(start, aside.stalled.load(Ordering::Relaxed) + inner);
        add(&self.resumed, 1, Ordering::Release);
        self.enter(Poll::new(of, start, span, mark));
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

    /// What the thread is polling, for any reader. `None` also where it changed while it was read: then nothing is stuck.
    pub(crate) fn read(&self) -> Option<Poll> {
        let resumed = self.resumed.load(Ordering::Acquire);
        let start = self.state.load(Ordering::Acquire);
        if !is_active(start) || start == Self::HIDDEN {
            return None;
        }
        let [of, span, mark] = [&self.of, &self.span, &self.mark].map(|stamp| stamp.load(Ordering::Acquire));
        let unchanged = self.state.load(Ordering::Acquire) == start && self.resumed.load(Ordering::Relaxed) == resumed;
        unchanged.then(|| Poll::new(of, start, span, mark))
    }

    /// A number that changes with every poll; 0 before the first one, so that a slot that is new is no news.
    pub(crate) fn activity(&self) -> u64 {
        self.state.load(Ordering::Relaxed).wrapping_add(1)
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            state: AtomicU64::new(!0),
            of: AtomicU64::default(),
            span: AtomicU64::default(),
            mark: AtomicU64::default(),
            depth: AtomicU64::default(),
            resumed: AtomicU64::default(),
            aside: Default::default(),
            stalled: Default::default(),
        }
    }
}

/// No clock has ever run for so long that the highest bit is set.
#[inline]
fn is_active(state: u64) -> bool {
    state as i64 >= 0
}

// === impl Poll ===

impl Poll {
    fn new(of: u64, start: u64, span: u64, mark: u64) -> Self {
        Self { route: RouteId::from_bits(of), phase: Phase::ALL[(of >> 16) as usize], start, span, mark }
    }

    #[inline]
    fn of(&self) -> u64 {
        (self.phase as u64) << 16 | u64::from(self.route.get())
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
        assert_eq!((slot.read(), slot.activity()), (None, 0));
        slot.enter(poll(7, 100));
        assert_eq!(slot.read(), Some(poll(7, 100)));
        slot.leave();
        assert_eq!(slot.read(), None);
        let activity = slot.activity();
        slot.enter(poll(7, 200));
        slot.leave();
        assert_ne!(slot.activity(), activity);
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
        assert_eq!((slot.read(), slot.depth.load(Ordering::Relaxed)), (None, 0));
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
            let is_kept = depth < Slot::DEEPEST as u64;
            slot.resume();
            assert_eq!(slot.read(), is_kept.then(|| poll(depth, depth * 100)));
            slot.leave();
        }
        assert_eq!(slot.depth.load(Ordering::Relaxed), 0);
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
