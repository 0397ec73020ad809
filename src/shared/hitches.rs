//! When the watchdog itself was not run: what happened to it happened to every thread of the process.

use crate::sync::{AtomicU64, Ordering};

/// Why the watchdog was late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hitch {
    /// It waited for a core.
    Queue,
    /// It was neither running nor waiting for a core: the whole process was stopped.
    Pause,
}

/// The last times that the watchdog was late. It alone writes them.
#[derive(Debug, Default)]
pub(crate) struct Hitches {
    next: AtomicU64,
    last: [Interval; 16],
}

#[derive(Debug, Default)]
struct Interval {
    from: AtomicU64,
    to: AtomicU64,
    kind: AtomicU64,
}

impl Hitches {
    pub(crate) fn note(&self, kind: Hitch, from: u64, to: u64) {
        let next = self.next.load(Ordering::Relaxed);
        let interval = &self.last[next as usize % self.last.len()];
        interval.from.store(from, Ordering::Relaxed);
        interval.to.store(to, Ordering::Relaxed);
        interval.kind.store(kind as u64, Ordering::Relaxed);
        self.next.store(next + 1, Ordering::Release);
    }

    /// For how many of the ticks from `from` to `to` the watchdog was late in this way.
    pub(crate) fn during(&self, kind: Hitch, from: u64, to: u64) -> u64 {
        let of_kind = self.last.iter().filter(|interval| interval.kind.load(Ordering::Relaxed) == kind as u64);
        let overlaps = of_kind.map(|interval| {
            let begins = interval.from.load(Ordering::Relaxed).max(from);
            interval.to.load(Ordering::Relaxed).min(to).saturating_sub(begins)
        });
        overlaps.sum()
    }
}

#[cfg(all(test, not(tower_stall_loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_the_overlap_counts() {
        let hitches = Hitches::default();
        assert_eq!(hitches.during(Hitch::Queue, 0, u64::MAX), 0);
        hitches.note(Hitch::Pause, 100, 200);
        hitches.note(Hitch::Queue, 300, 400);
        hitches.note(Hitch::Pause, 500, 600);
        assert_eq!(hitches.during(Hitch::Pause, 150, 550), 100);
        assert_eq!(hitches.during(Hitch::Pause, 210, 450), 0);
        assert_eq!(hitches.during(Hitch::Queue, 0, 1_000), 100);
        for _ in 0..16 {
            hitches.note(Hitch::Queue, 0, 1);
        }
        assert_eq!(hitches.during(Hitch::Pause, 0, 1_000), 0, "the oldest are forgotten");
    }
}
