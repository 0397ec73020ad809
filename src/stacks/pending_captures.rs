//! The polls of which captured stacks are still to be symbolized.

use crate::shard::PollId;
use crate::sync::{AtomicU64, Ordering};

/// One slot per capture on its way. The watchdog fills slots, the symbolizer's thread empties them,
/// any thread reads them.
#[derive(Debug)]
pub(super) struct PendingCaptures(Box<[Slot]>);

#[derive(Debug)]
struct Slot {
    /// Relaxed: belongs to `start`, and is written before it. A reader that pairs it with the start
    /// of an earlier poll of the slot takes that poll, whose captures are done, for pending once
    /// more, or not; it is not misled about one that is pending, because its slot does not change.
    shard: AtomicU64,
    /// 0 if the slot is empty.
    start: AtomicU64,
}

impl PendingCaptures {
    pub(super) fn new(slots: usize) -> Self {
        let empty = |_| Slot { shard: AtomicU64::new(0), start: AtomicU64::new(0) };
        Self((0..slots).map(empty).collect())
    }

    /// Records a capture. Called by the watchdog only.
    pub(super) fn begin(&self, id: PollId) {
        // Acquire: pairs with the Release in `end`, so that the slot is not reused earlier.
        let free = self.0.iter().find(|slot| slot.start.load(Ordering::Acquire) == 0);
        // There are as many slots as there can be captures.
        let Some(slot) = free else { return };
        slot.shard.store(id.shard as u64, Ordering::Relaxed);
        // Release: pairs with the Acquire in `contains`, which then sees the shard.
        slot.start.store(id.start, Ordering::Release);
    }

    /// Records that one capture of a poll is symbolized. Called by the symbolizer's thread only.
    pub(super) fn end(&self, id: PollId) {
        if let Some(slot) = self.0.iter().find(|slot| slot.is_of(id)) {
            // Release: pairs with the Acquire in `contains`: a reader that finds no capture of a
            // poll sees what was symbolized.
            slot.start.store(0, Ordering::Release);
        }
    }

    /// Returns whether a capture of a poll has begun and not ended.
    pub(super) fn contains(&self, id: PollId) -> bool {
        self.0.iter().any(|slot| slot.is_of(id))
    }
}

impl Slot {
    fn is_of(&self, id: PollId) -> bool {
        // Acquire: pairs with the Release in `begin` and in `end`.
        self.start.load(Ordering::Acquire) == id.start
            && self.shard.load(Ordering::Relaxed) == id.shard as u64
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_is_pending_until_each_of_its_captures_has_ended() {
        let pending = PendingCaptures::new(3);
        let [one, other] = [1, 2].map(|shard| PollId { shard, start: 7 });
        (0..2).for_each(|_| pending.begin(one));
        pending.begin(other);
        pending.end(one);
        assert!(pending.contains(one) && pending.contains(other));
        pending.end(one);
        assert!(!pending.contains(one) && pending.contains(other));
        pending.begin(one);
        assert!(pending.contains(one), "the slot is used again");
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use super::*;
    use ::loom::{sync::Arc, thread};

    /// A reporter that finds a poll without pending captures sees what was symbolized of it, also
    /// while a capture of another poll takes the slot.
    #[test]
    fn loom_a_capture_that_has_ended_publishes_its_sample() {
        ::loom::model(|| {
            let [one, other] = [1, 2].map(|shard| PollId { shard, start: 7 });
            let shared = Arc::new((PendingCaptures::new(1), AtomicU64::new(0)));
            shared.0.begin(one);
            let symbolizer = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.1.store(1, Ordering::Relaxed);
                    shared.0.end(one);
                })
            };
            let watchdog = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.0.begin(other))
            };
            if !shared.0.contains(one) {
                assert_eq!(shared.1.load(Ordering::Relaxed), 1);
            }
            symbolizer.join().unwrap();
            watchdog.join().unwrap();
        });
    }
}
