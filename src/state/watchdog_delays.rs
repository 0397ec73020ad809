//! The intervals in which the host kept the watchdog itself from running, and with it the other
//! threads of the process.

use crate::sync::{AtomicU64, Ordering};

/// Why the watchdog did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DelayKind {
    /// It waited in the run queue.
    RunQueue,
    /// It neither ran nor waited in the run queue: the whole process was stopped.
    Stopped,
}

/// The latest delays of the watchdog. Written only by the watchdog.
#[derive(Debug, Default)]
pub(crate) struct WatchdogDelays {
    /// Relaxed: only the watchdog uses it.
    next: AtomicU64,
    latest: [Interval; WatchdogDelays::CAPACITY],
}

/// A seqlock. The sequence word holds the number of the delay and its kind; it is
/// [`Interval::EMPTY`] while the others are written.
#[derive(Debug, Default)]
struct Interval {
    sequence: AtomicU64,
    from: AtomicU64,
    to: AtomicU64,
}

// === impl WatchdogDelays ===

impl WatchdogDelays {
    const CAPACITY: usize = 16;

    /// Records a delay between two moments, in ticks. Must only be called by the watchdog.
    pub(crate) fn record(&self, kind: DelayKind, from: u64, to: u64) {
        let next = self.next.load(Ordering::Relaxed);
        self.latest[next as usize % Self::CAPACITY].write(next, kind, from, to);
        self.next.store(next + 1, Ordering::Relaxed);
    }

    /// Returns for how many of the ticks between `from` and `to` the watchdog was delayed in this
    /// way.
    pub(crate) fn overlap(&self, kind: DelayKind, from: u64, to: u64) -> u64 {
        let intervals = self.latest.iter().filter_map(|interval| interval.read(kind));
        intervals.map(|(begin, end)| end.min(to).saturating_sub(begin.max(from))).sum()
    }
}

// === impl Interval ===

impl Interval {
    const EMPTY: u64 = 0;

    fn write(&self, number: u64, kind: DelayKind, from: u64, to: u64) {
        // Relaxed: the Release stores below come after it.
        self.sequence.store(Self::EMPTY, Ordering::Relaxed);
        // Release: pairs with the Acquire of the same word in `read`. A reader that sees a new
        // moment also sees that the sequence word has changed.
        self.from.store(from, Ordering::Release);
        self.to.store(to, Ordering::Release);
        // Release: pairs with the first Acquire in `read`.
        self.sequence.store((number << 1 | kind as u64) + 1, Ordering::Release);
    }

    /// Returns the interval if it is of this kind, and if it did not change while it was read.
    fn read(&self, kind: DelayKind) -> Option<(u64, u64)> {
        // Acquire, on all three: pairs with the Release in `write`.
        let sequence = self.sequence.load(Ordering::Acquire);
        if sequence == Self::EMPTY || (sequence - 1) & 1 != kind as u64 {
            return None;
        }
        let interval = (self.from.load(Ordering::Acquire), self.to.load(Ordering::Acquire));
        // Relaxed: the Acquire loads above come before it.
        (self.sequence.load(Ordering::Relaxed) == sequence).then_some(interval)
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_overlap_counts() {
        let delays = WatchdogDelays::default();
        assert_eq!(delays.overlap(DelayKind::RunQueue, 0, u64::MAX), 0);
        delays.record(DelayKind::Stopped, 100, 200);
        delays.record(DelayKind::RunQueue, 300, 400);
        delays.record(DelayKind::Stopped, 500, 600);
        assert_eq!(delays.overlap(DelayKind::Stopped, 150, 550), 100);
        assert_eq!(delays.overlap(DelayKind::Stopped, 210, 450), 0);
        assert_eq!(delays.overlap(DelayKind::RunQueue, 0, 1_000), 100);
    }

    #[test]
    fn the_oldest_delays_are_forgotten() {
        let delays = WatchdogDelays::default();
        delays.record(DelayKind::Stopped, 100, 200);
        for _ in 0..WatchdogDelays::CAPACITY {
            delays.record(DelayKind::RunQueue, 0, 1);
        }
        assert_eq!(delays.overlap(DelayKind::Stopped, 0, 1_000), 0);
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use super::*;
    use ::loom::{sync::Arc, thread};

    /// An interval that is overwritten with one of the same kind is read as one or the other, or
    /// not at all.
    #[test]
    fn loom_an_interval_is_never_read_half_written() {
        ::loom::model(|| {
            let interval = Arc::new(Interval::default());
            interval.write(0, DelayKind::Stopped, 100, 200);
            let reader = {
                let interval = Arc::clone(&interval);
                thread::spawn(move || {
                    if let Some(read) = interval.read(DelayKind::Stopped) {
                        assert!(matches!(read, (100, 200) | (300, 400)), "{read:?}");
                    }
                    assert_eq!(interval.read(DelayKind::RunQueue), None);
                })
            };
            interval.write(1, DelayKind::Stopped, 300, 400);
            reader.join().unwrap();
        });
    }
}
