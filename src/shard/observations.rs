//! What the watchdog and the rescuer have observed of a thread's current poll.
//!
//! Each observation names its poll by the poll's start, so that nothing has to be reset when the
//! next poll begins.

use super::thread_samples::{ThreadSample, ThreadSamples};
use super::time_breakdown::TimeBreakdown;
use crate::stall::CaptureFailure;
use crate::sync::{AtomicU64, Ordering};

/// The observations of one thread. The watchdog writes them, except where a field says otherwise;
/// any thread reads them.
///
/// All words are relaxed: each is valid by itself, together with the start that it holds. The
/// samples are a seqlock of their own.
#[derive(Debug, Default)]
pub(crate) struct PollObservations {
    /// The poll whose next report is due at `report_age`, in ticks.
    poll: AtomicU64,
    report_age: AtomicU64,
    /// The ages at which a stack of the thread on-CPU and one of it blocked are due, in ticks.
    capture_ages: [AtomicU64; 2],
    /// The last poll during which the I/O driver was starved. Written by the rescuer.
    starved: AtomicU64,
    /// The last poll during which another worker took over the I/O driver after a wake-up, and when,
    /// in ticks. Written by the rescuer.
    rescued: [AtomicU64; 2],
    /// The last poll whose stack shows that it gives up its worker. Written by the reporter.
    handed_off: AtomicU64,
    /// The last poll whose worker went on meanwhile, on another thread.
    moved: AtomicU64,
    /// The last poll that gave up its worker, but whose worker did not go on; and its age when it
    /// was last found so, in ticks.
    stranded: [AtomicU64; 2],
    /// A poll, and the index of the worker that it was found to be on.
    worker: [AtomicU64; 2],
    /// Why the last attempt to capture a stack failed, and of which poll: see `encode`. Also written
    /// by the reporter.
    capture_failure: AtomicU64,
    /// The worker's counters at the first sample.
    first_counters: [AtomicU64; 2],
    samples: ThreadSamples,
}

/// A counter that was not known at the first sample.
const UNKNOWN: u64 = u64::MAX;

impl PollObservations {
    /// Returns whether the I/O driver was starved during the poll that began at `start`.
    pub(crate) fn is_starved(&self, start: u64) -> bool {
        get(&self.starved) == start
    }

    pub(crate) fn set_starved(&self, start: u64) {
        set(&self.starved, start);
    }

    /// Returns when another worker took over the I/O driver during the poll that began at `start`.
    pub(crate) fn rescued_at(&self, start: u64) -> Option<u64> {
        let at = get(&self.rescued[1]);
        (get(&self.rescued[0]) == start).then_some(at)
    }

    pub(crate) fn set_rescued(&self, start: u64, at: u64) {
        set(&self.rescued[1], at);
        set(&self.rescued[0], start);
    }

    /// Returns whether the poll that began at `start` has handed off its worker, to a thread that
    /// has taken it over.
    pub(crate) fn is_handed_off(&self, start: u64) -> bool {
        self.has_moved(start) || (get(&self.handed_off) == start && !self.is_stranded(start))
    }

    /// Records that the poll's stack shows that it gives up its worker.
    pub(crate) fn set_handed_off(&self, start: u64) {
        set(&self.handed_off, start);
    }

    /// Returns whether the worker of the poll that began at `start` went on meanwhile.
    pub(crate) fn has_moved(&self, start: u64) -> bool {
        get(&self.moved) == start
    }

    pub(crate) fn set_moved(&self, start: u64) {
        set(&self.moved, start);
    }

    /// Records that, at this age, no thread has taken over the worker, should the poll give it up.
    pub(crate) fn set_stranded(&self, start: u64, age: u64) {
        set(&self.stranded[1], age);
        set(&self.stranded[0], start);
    }

    fn is_stranded(&self, start: u64) -> bool {
        get(&self.stranded[0]) == start
    }

    /// Returns on which worker the poll that began at `start` was found to be.
    pub(crate) fn worker(&self, start: u64) -> Option<usize> {
        let worker = get(&self.worker[1]);
        (get(&self.worker[0]) == start).then(|| usize::try_from(worker).ok()).flatten()
    }

    pub(crate) fn set_worker(&self, start: u64, worker: usize) {
        set(&self.worker[1], worker as u64);
        set(&self.worker[0], start);
    }

    /// Returns why the last attempt to capture a stack of the poll that began at `start` failed.
    pub(crate) fn capture_failure(&self, start: u64) -> Option<CaptureFailure> {
        let word = get(&self.capture_failure);
        CaptureFailure::ALL.into_iter().find(|failure| word == encode(start, *failure))
    }

    pub(crate) fn set_capture_failure(&self, start: u64, failure: CaptureFailure) {
        set(&self.capture_failure, encode(start, failure));
    }

    /// Starts to observe a poll, unless that has been done.
    pub(crate) fn begin(&self, start: u64, report_age: u64) {
        if get(&self.poll) != start {
            set(&self.poll, start);
            set(&self.report_age, report_age);
            self.capture_ages.iter().for_each(|age| set(age, 0));
        }
    }

    /// Returns whether a report is due at this age, and schedules the next one for the time when
    /// the age has doubled.
    pub(crate) fn take_report(&self, age: u64) -> bool {
        let due = get(&self.report_age);
        if age < due {
            return false;
        }
        // One report for several doublings at once, such as after a suspension.
        let next =
            std::iter::successors(Some(due), |due| due.checked_mul(2)).find(|&due| due > age);
        set(&self.report_age, next.unwrap_or(u64::MAX));
        true
    }

    /// Returns whether a stack of the thread, blocked or on-CPU, is due at this age.
    ///
    /// The two kinds are scheduled independently: which of them shows the cause is known only when
    /// the poll has ended.
    pub(crate) fn is_capture_due(&self, age: u64, is_blocked: bool) -> bool {
        age >= get(&self.capture_ages[usize::from(is_blocked)])
    }

    /// Schedules the next capture of a kind.
    pub(crate) fn set_next_capture(&self, is_blocked: bool, age: u64) {
        set(&self.capture_ages[usize::from(is_blocked)], age);
    }

    /// Records a sample of the poll that began at `start`, together with the counters of its
    /// worker: parks and unparks, and busy time. While a poll occupies the worker these do not
    /// change.
    pub(crate) fn record(&self, start: u64, sample: &ThreadSample, counters: Option<[u64; 2]>) {
        if self.samples.is_of(start) {
            self.samples.add(sample);
            if counters.is_some_and(|counters| self.have_changed(counters)) {
                self.set_moved(start);
            }
            return;
        }
        self.samples.begin(start, sample);
        let counters = counters.unwrap_or([UNKNOWN; 2]);
        for (first, now) in self.first_counters.iter().zip(counters) {
            set(first, now);
        }
        // An odd number of parks and unparks means parked, which no worker is inside a poll.
        if counters[0] != UNKNOWN && counters[0] % 2 == 1 {
            self.set_moved(start);
        }
    }

    fn have_changed(&self, counters: [u64; 2]) -> bool {
        let mut pairs = self.first_counters.iter().map(get).zip(counters);
        pairs.any(|(first, now)| first != UNKNOWN && first != now)
    }

    /// Returns how the poll that began at `start` spent its time up to the last sample.
    pub(crate) fn breakdown(&self, start: u64) -> Option<TimeBreakdown> {
        self.samples.breakdown(start).map(|breakdown| self.with_hand_off(start, breakdown))
    }

    /// Returns how the poll that began at `start` spent its time up to its end, at which the thread
    /// itself has taken a sample.
    pub(crate) fn breakdown_at_end(&self, start: u64, end: &ThreadSample) -> TimeBreakdown {
        self.with_hand_off(start, self.samples.breakdown_at_end(start, end))
    }

    fn with_hand_off(&self, start: u64, breakdown: TimeBreakdown) -> TimeBreakdown {
        let stranded = self.is_stranded(start);
        TimeBreakdown {
            handed_off: self.is_handed_off(start),
            stranded_for: stranded.then(|| get(&self.stranded[1])),
            ..breakdown
        }
    }
}

/// Puts a poll and a failure into one word. The bits that are lost repeat after centuries.
fn encode(start: u64, failure: CaptureFailure) -> u64 {
    const BITS: u32 = 5;
    const { assert!(CaptureFailure::COUNT < 1 << BITS) };
    start << BITS | (failure as u64 + 1)
}

fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn set(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::os::Tid;

    fn sample(at: u64) -> ThreadSample {
        ThreadSample {
            thread: Tid(1),
            at: Duration::from_millis(at),
            cpu: Duration::ZERO,
            run_delay: Some(Duration::ZERO),
            blocked_in: None,
        }
    }

    #[test]
    fn a_worker_whose_counters_change_was_handed_off() {
        let observations = PollObservations::default();
        observations.record(7, &sample(0), Some([4, 100]));
        observations.record(7, &sample(5), Some([4, 100]));
        assert!(!observations.is_handed_off(7));
        observations.record(7, &sample(10), Some([5, 100]));
        assert!(observations.breakdown(7).unwrap().handed_off);
        observations.record(8, &sample(20), Some([6, 100]));
        assert!(!observations.is_handed_off(8));
        observations.record(9, &sample(30), Some([7, 100]));
        assert!(observations.is_handed_off(9), "a parked worker polls nothing");
        observations.record(10, &sample(40), None);
        observations.record(10, &sample(50), Some([8, 100]));
        assert!(!observations.is_handed_off(10), "nothing to compare with");
    }

    #[test]
    fn a_worker_that_nobody_takes_over_is_stranded_until_it_moves() {
        let observations = PollObservations::default();
        observations.record(7, &sample(0), Some([4, 100]));
        observations.set_handed_off(7);
        assert!(observations.is_handed_off(7));
        observations.set_stranded(7, 1_500);
        assert!(!observations.is_handed_off(7));
        observations.record(7, &sample(9), Some([5, 100]));
        assert!(observations.is_handed_off(7) && observations.has_moved(7));
        let breakdown = observations.breakdown(7).unwrap();
        assert_eq!((breakdown.handed_off, breakdown.stranded_for), (true, Some(1_500)));
    }

    #[test]
    fn a_failure_is_that_of_one_poll() {
        let observations = PollObservations::default();
        assert_eq!(observations.capture_failure(0), None);
        for failure in CaptureFailure::ALL {
            observations.set_capture_failure(1 << 50 | 7, failure);
            assert_eq!(observations.capture_failure(1 << 50 | 7), Some(failure));
            assert_eq!(observations.capture_failure(8), None);
        }
    }

    #[test]
    fn the_two_kinds_of_captures_are_scheduled_independently() {
        let observations = PollObservations::default();
        let is_due =
            |age| [false, true].map(|is_blocked| observations.is_capture_due(age, is_blocked));
        observations.begin(7, 100);
        assert_eq!(is_due(20), [true, true]);
        observations.set_next_capture(true, 40);
        assert_eq!(is_due(25), [true, false]);
        observations.set_next_capture(false, 50);
        assert_eq!([39, 40, 50].map(is_due), [[false, false], [false, true], [true, true]]);
        observations.begin(8, 100);
        assert_eq!(is_due(20), [true, true], "another poll");
    }

    #[test]
    fn reports_are_due_at_each_doubling_and_once_for_several() {
        let observations = PollObservations::default();
        observations.begin(7, 100);
        let reports: Vec<_> =
            [99, 100, 150, 200, 900, 901].map(|age| observations.take_report(age)).into();
        assert_eq!(reports, [false, true, false, true, true, false]);
        observations.begin(7, 100);
        assert!(!observations.take_report(1_500), "a second `begin` changes nothing");
    }
}
