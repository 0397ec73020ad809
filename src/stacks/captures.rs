//! The way of the copies from the watchdog to the reporter and back. Nobody waits and nothing is allocated on it.

use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use super::{Purpose, RawStack};
use crate::os::{Call, Descriptor};
use crate::sync::{AtomicU64, Ordering};

/// How an attempt to take a stack ended: the values of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Captured,
    /// The thread went on meanwhile, or its stack made no sense.
    Torn,
    /// The thread was running, and signals are off.
    Running,
    /// The thread did not answer the signal.
    Timeout,
    /// Not here.
    Unsupported,
}

/// A copy of a stack, and whose.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) purpose: Purpose,
    /// How much later than asked for it was taken: a thread that is not on a core answers late.
    pub(crate) later: Duration,
    /// The system call the thread was asleep in; `None` if it ran.
    pub(crate) asleep_in: Option<Call>,
    /// What the system call it was in waits for.
    pub(crate) descriptor: Option<Descriptor>,
    pub(crate) raw: Box<RawStack>,
}

/// Copies to be read, blank ones to be written, and the count of attempts.
#[derive(Debug)]
pub(crate) struct Captures {
    blank: ArrayQueue<Box<RawStack>>,
    taken: ArrayQueue<Capture>,
    outcomes: [AtomicU64; Outcome::ALL.len()],
}

// === impl Outcome ===

impl Outcome {
    pub(crate) const ALL: [Self; 5] = [Self::Captured, Self::Torn, Self::Running, Self::Timeout, Self::Unsupported];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::Torn => "torn",
            Self::Running => "running",
            Self::Timeout => "timeout",
            Self::Unsupported => "unsupported",
        }
    }
}

// === impl Captures ===

impl Captures {
    /// Copies that may be under way at once.
    const MOST: usize = 16;

    /// With `blanks`, there is memory for copies.
    pub(crate) fn new(blanks: bool) -> Self {
        let captures = Self {
            blank: ArrayQueue::new(Self::MOST),
            taken: ArrayQueue::new(Self::MOST),
            outcomes: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        if blanks {
            (0..Self::MOST).for_each(|_| captures.give_back(Box::new(RawStack::empty())));
        }
        captures
    }

    // The watchdog's side.

    pub(crate) fn blank(&self) -> Option<Box<RawStack>> {
        self.blank.pop()
    }

    /// Whether there is not much room left for copies.
    pub(crate) fn is_scarce(&self) -> bool {
        self.blank.len() < Self::MOST / 2
    }

    pub(crate) fn hand_over(&self, capture: Capture) {
        // There are no more copies than there is room for.
        let _ = self.taken.push(capture);
    }

    // The reporter's side.

    pub(crate) fn next(&self) -> Option<Capture> {
        self.taken.pop()
    }

    pub(crate) fn give_back(&self, raw: Box<RawStack>) {
        let _ = self.blank.push(raw);
    }

    // Both sides.

    pub(crate) fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counted(&self) -> [u64; Outcome::ALL.len()] {
        Outcome::ALL.map(|outcome| self.outcomes[outcome as usize].load(Ordering::Relaxed))
    }
}

#[cfg(all(test, not(tower_stall_loom)))]
mod tests {
    use super::*;

    #[test]
    fn copies_are_scarce_when_more_than_half_are_under_way() {
        let captures = Captures::new(true);
        let mut under_way: Vec<_> = (0..Captures::MOST / 2).filter_map(|_| captures.blank()).collect();
        assert!(!captures.is_scarce());
        under_way.extend(captures.blank());
        assert!(captures.is_scarce());
        under_way.into_iter().for_each(|raw| captures.give_back(raw));
        assert!(!captures.is_scarce());
    }
}
