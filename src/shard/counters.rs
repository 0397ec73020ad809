//! The counters of one route on one thread, and their sum over all threads.

use super::histogram::{BucketBounds, HistogramSnapshot, Histograms, add};
use super::outcome::Outcome;
use crate::stall::Phase;
use crate::sync::{AtomicU64, Ordering};

/// The counters of one route on one thread. Only that thread writes them.
///
/// Aligned so that no two threads write to one cache line, and in this order so that a request of
/// short polls writes to the first three lines only: with many routes they are not in the cache.
/// The reference count in front is on the line before, no farther away than that.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct RouteCounters {
    started: AtomicU64,
    ended: [AtomicU64; Outcome::ALL.len()],
    /// Indexed by the constants below.
    histograms: Histograms<HISTOGRAMS>,
    /// How often something was added outside the fast path.
    slow_additions: AtomicU64,
    /// The longest poll recorded outside the fast path, in ticks.
    /// Relaxed: no other memory belongs to it.
    longest_poll: AtomicU64,
}

/// Polls of the first phase, followed by those of the others.
const POLL_DURATION: usize = 0;
const SCHEDULE_LATENCY: usize = POLL_DURATION + Phase::ALL.len();
const REQUEST_DURATION: usize = SCHEDULE_LATENCY + 1;
const REQUEST_BUSY: usize = REQUEST_DURATION + 1;
/// Stalls that the full report queue rejected.
const UNREPORTED_STALLS: usize = REQUEST_BUSY + 1;
const SOCKET_WAIT: usize = UNREPORTED_STALLS + 1;
const HISTOGRAMS: usize = SOCKET_WAIT + 1;

/// The counters of one route, summed over all threads, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteTotals {
    pub(crate) polls: [HistogramSnapshot; Phase::ALL.len()],
    pub(crate) schedule_latency: HistogramSnapshot,
    pub(crate) socket_wait: HistogramSnapshot,
    pub(crate) request_duration: HistogramSnapshot,
    pub(crate) request_busy: HistogramSnapshot,
    pub(crate) unreported_stalls: HistogramSnapshot,
    pub(crate) longest_poll: u64,
    pub(crate) started: u64,
    pub(crate) ended: [u64; Outcome::ALL.len()],
}

// === impl RouteCounters ===

impl RouteCounters {
    /// Adds a poll that belongs to the first bucket.
    #[inline(always)]
    pub(crate) fn add_fast_poll(&self, phase: Phase, ticks: u64) {
        self.histograms.add_to_first(POLL_DURATION + phase as usize, ticks);
    }

    pub(crate) fn add_poll(&self, bounds: &BucketBounds, phase: Phase, ticks: u64) {
        self.histograms.add(POLL_DURATION + phase as usize, bounds, ticks);
        if ticks > self.longest_poll.load(Ordering::Relaxed) {
            self.longest_poll.store(ticks, Ordering::Relaxed);
        }
        add(&self.slow_additions, 1, Ordering::Release);
    }

    /// Adds a schedule latency that belongs to the first bucket.
    #[inline(always)]
    pub(crate) fn add_short_schedule_latency(&self, ticks: u64) {
        self.histograms.add_to_first(SCHEDULE_LATENCY, ticks);
    }

    pub(crate) fn add_schedule_latency(&self, bounds: &BucketBounds, ticks: u64) {
        self.histograms.add(SCHEDULE_LATENCY, bounds, ticks);
    }

    /// Adds a socket wait. Must be called before the end of a poll of the request.
    pub(crate) fn add_socket_wait(&self, bounds: &BucketBounds, ticks: u64) {
        self.histograms.add(SOCKET_WAIT, bounds, ticks);
    }

    pub(crate) fn add_unreported_stall(&self, bounds: &BucketBounds, ticks: u64) {
        self.histograms.add(UNREPORTED_STALLS, bounds, ticks);
        add(&self.slow_additions, 1, Ordering::Release);
    }

    #[inline]
    pub(crate) fn start_request(&self) {
        add(&self.started, 1, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn end_request(
        &self,
        bounds: &BucketBounds,
        outcome: Outcome,
        duration: u64,
        busy: u64,
    ) {
        self.histograms.add(REQUEST_DURATION, bounds, duration);
        self.histograms.add(REQUEST_BUSY, bounds, busy);
        // Release: pairs with the Acquire in `add_ended_to`. A reader that sees the end sees the
        // start, whichever thread it was on.
        add(&self.ended[outcome as usize], 1, Ordering::Release);
    }

    /// Returns a number that grows whenever a request starts or ends, or a poll ends; everything
    /// else is added before the end of a poll. Reads the cache lines of the fast path and one more.
    pub(crate) fn changes(&self) -> u64 {
        // Acquire: pairs with the Release of each addition. A reader that sees the change sees what
        // was added before.
        let ended = self.ended.iter().map(|ended| ended.load(Ordering::Acquire));
        let fast_polls = (0..Phase::ALL.len()).map(|phase| self.histograms.count_in_first(phase));
        self.started.load(Ordering::Relaxed)
            + ended.sum::<u64>()
            + fast_polls.sum::<u64>()
            + self.slow_additions.load(Ordering::Acquire)
    }

    /// Adds the counters to `totals`. No thread may be adding to them.
    pub(crate) fn add_to(&self, totals: &mut RouteTotals) {
        self.add_ended_to(totals);
        self.add_rest_to(totals);
    }

    /// Adds the number of requests that have ended.
    pub(crate) fn add_ended_to(&self, totals: &mut RouteTotals) {
        for (total, ended) in totals.ended.iter_mut().zip(&self.ended) {
            // Acquire: pairs with the Release in `end_request`.
            *total += ended.load(Ordering::Acquire);
        }
    }

    /// Adds everything else. For counters that are being added to, the number of requests that have
    /// ended must have been read before.
    pub(crate) fn add_rest_to(&self, totals: &mut RouteTotals) {
        for (phase, total) in totals.polls.iter_mut().enumerate() {
            self.histograms.read_into(POLL_DURATION + phase, total);
        }
        self.histograms.read_into(SCHEDULE_LATENCY, &mut totals.schedule_latency);
        self.histograms.read_into(SOCKET_WAIT, &mut totals.socket_wait);
        self.histograms.read_into(REQUEST_DURATION, &mut totals.request_duration);
        self.histograms.read_into(REQUEST_BUSY, &mut totals.request_busy);
        self.histograms.read_into(UNREPORTED_STALLS, &mut totals.unreported_stalls);
        totals.longest_poll = totals.longest_poll.max(self.longest_poll.load(Ordering::Relaxed));
        totals.started += self.started.load(Ordering::Relaxed);
    }
}

// === impl RouteTotals ===

impl RouteTotals {
    pub(crate) fn merge(&mut self, other: &Self) {
        let own = self.polls.iter_mut().chain([
            &mut self.schedule_latency,
            &mut self.socket_wait,
            &mut self.request_duration,
            &mut self.request_busy,
            &mut self.unreported_stalls,
        ]);
        let others = other.polls.iter().chain([
            &other.schedule_latency,
            &other.socket_wait,
            &other.request_duration,
            &other.request_busy,
            &other.unreported_stalls,
        ]);
        own.zip(others).for_each(|(own, other)| own.merge(other));
        self.longest_poll = self.longest_poll.max(other.longest_poll);
        self.started += other.started;
        self.ended.iter_mut().zip(&other.ended).for_each(|(own, other)| *own += other);
    }

    pub(crate) fn ended(&self) -> u64 {
        self.ended.iter().sum()
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.started.saturating_sub(self.ended())
    }

    /// Returns the polls of both phases.
    pub(crate) fn all_polls(&self) -> HistogramSnapshot {
        let mut all = HistogramSnapshot::default();
        self.polls.iter().for_each(|polls| all.merge(polls));
        all
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_short_polls_writes_to_three_cache_lines() {
        const FIRST_BUCKETS: usize = HISTOGRAMS * 2 * size_of::<u64>();
        assert!(std::mem::offset_of!(RouteCounters, histograms) + FIRST_BUCKETS <= 3 * 64);
        let counters = RouteCounters::default();
        let address = std::ptr::from_ref(&counters).addr();
        let offset = std::ptr::from_ref(&counters.started).addr() - address;
        assert_eq!((address % 64, offset), (0, 0));
    }
}
