//! The numbers of each route on each thread: added to by that thread alone, read and summed by the reporter.

mod histogram;
mod lane;
mod slot;
mod watched;

use crate::sync::{AtomicU64, Ordering};

pub(crate) use self::histogram::{BOUNDS_NANOS, BUCKETS, Bounds, Histogram, Samples};
pub(crate) use self::lane::{Common, Lane, Lanes, Subject};
pub(crate) use self::slot::Poll;
pub(crate) use self::watched::Watched;

use self::histogram::{Histograms, add};
use crate::outcome::{Outcome, Phase};

/// The numbers of one route on one thread. Aligned so that no two threads write to one cache line, and in this order so that a request
/// of short polls writes to the first three alone: with many routes they are not in the cache. The count of who refers to it, which lies
/// before it, is no farther away than that.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct RouteCells {
    started: AtomicU64,
    ended: [AtomicU64; Outcome::ALL.len()],
    /// By the numbers below.
    histograms: Histograms<{ UNREPORTED_STALLS + 1 }>,
    /// Of those that were not told by `quick_poll`.
    longest_poll: AtomicU64,
}

/// Polls of the first phase; those of others follow.
const POLLS: usize = 0;
const SCHEDULE_DELAY: usize = POLLS + Phase::ALL.len();
const REQUEST_DURATION: usize = SCHEDULE_DELAY + 1;
const REQUEST_BUSY: usize = REQUEST_DURATION + 1;
/// Stalls that the reporter's full queue refused.
const UNREPORTED_STALLS: usize = REQUEST_BUSY + 1;

/// What the cells of one route held when they were read, all threads together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) polls: [Samples; Phase::ALL.len()],
    pub(crate) schedule_delay: Samples,
    pub(crate) request_duration: Samples,
    pub(crate) request_busy: Samples,
    pub(crate) unreported_stalls: Samples,
    pub(crate) longest_poll: u64,
    pub(crate) started: u64,
    pub(crate) ended: [u64; Outcome::ALL.len()],
}

// === impl RouteCells ===

impl RouteCells {
    /// A poll of the first bucket.
    #[inline(always)]
    pub(crate) fn quick_poll(&self, phase: Phase, ticks: u64) {
        self.histograms.add_to_first(POLLS + phase as usize, ticks);
    }

    pub(crate) fn poll(&self, bounds: &Bounds, phase: Phase, ticks: u64) {
        self.histograms.add(POLLS + phase as usize, bounds, ticks);
        if ticks > self.longest_poll.load(Ordering::Relaxed) {
            self.longest_poll.store(ticks, Ordering::Relaxed);
        }
    }

    /// A delay that is negative, as clocks of two processors may differ, is none.
    #[inline(always)]
    pub(crate) fn schedule_delay(&self, bounds: &Bounds, ticks: u64) {
        if ticks <= bounds.first() {
            self.histograms.add_to_first(SCHEDULE_DELAY, ticks);
        } else {
            self.long_delay(bounds, ticks);
        }
    }

    #[cold]
    fn long_delay(&self, bounds: &Bounds, ticks: u64) {
        let is_negative = ticks > i64::MAX as u64;
        self.histograms.add(SCHEDULE_DELAY, bounds, if is_negative { 0 } else { ticks });
    }

    pub(crate) fn unreported_stall(&self, bounds: &Bounds, ticks: u64) {
        self.histograms.add(UNREPORTED_STALLS, bounds, ticks);
    }

    #[inline]
    pub(crate) fn start(&self) {
        add(&self.started, 1, Ordering::Relaxed);
    }

    /// Accounts for a request that is over.
    #[inline(always)]
    pub(crate) fn end(&self, bounds: &Bounds, outcome: Outcome, duration: u64, busy: u64) {
        self.histograms.add(REQUEST_DURATION, bounds, duration);
        self.histograms.add(REQUEST_BUSY, bounds, busy);
        // Release, the partner of the Acquire in `read_ended`: who sees the end sees the start, on whatever thread it was.
        add(&self.ended[outcome as usize], 1, Ordering::Release);
    }

    fn read_ended(&self, totals: &mut Totals) {
        for (total, cell) in totals.ended.iter_mut().zip(&self.ended) {
            *total += cell.load(Ordering::Acquire);
        }
    }

    fn read_rest(&self, totals: &mut Totals) {
        for (phase, total) in totals.polls.iter_mut().enumerate() {
            self.histograms.read_into(POLLS + phase, total);
        }
        self.histograms.read_into(SCHEDULE_DELAY, &mut totals.schedule_delay);
        self.histograms.read_into(REQUEST_DURATION, &mut totals.request_duration);
        self.histograms.read_into(REQUEST_BUSY, &mut totals.request_busy);
        self.histograms.read_into(UNREPORTED_STALLS, &mut totals.unreported_stalls);
        totals.longest_poll = totals.longest_poll.max(self.longest_poll.load(Ordering::Relaxed));
        totals.started += self.started.load(Ordering::Relaxed);
    }
}

// === impl Totals ===

impl Totals {
    /// Sums the cells of one route over all threads.
    ///
    /// Ends are read before starts, so no request is seen to end that is not seen to start.
    pub(crate) fn read<'a>(cells: impl Iterator<Item = &'a RouteCells> + Clone) -> Self {
        let mut totals = Self::default();
        cells.clone().for_each(|cells| cells.read_ended(&mut totals));
        cells.for_each(|cells| cells.read_rest(&mut totals));
        totals
    }

    pub(crate) fn ended(&self) -> u64 {
        self.ended.iter().sum()
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.started - self.ended()
    }

    /// Polls of both phases.
    pub(crate) fn all_polls(&self) -> Samples {
        let mut all = Samples::default();
        self.polls.iter().for_each(|polls| all.merge(polls));
        all
    }
}

#[cfg(all(test, not(tower_stall_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_short_polls_writes_to_three_cache_lines() {
        const FIRST_BUCKETS: usize = (UNREPORTED_STALLS + 1) * 2 * size_of::<u64>();
        assert!(std::mem::offset_of!(RouteCells, histograms) + FIRST_BUCKETS <= 3 * 64);
        let cells = RouteCells::default();
        let place = std::ptr::from_ref(&cells).addr();
        assert_eq!((place % 64, std::ptr::from_ref(&cells.started).addr() - place), (0, 0));
    }
}
