//! The state machine that decides whether unmeasured code occupies a worker.
//!
//! Tokio updates the counters of a worker only when the worker parks, and every 61 tasks. Counters
//! that do not change therefore mean one long poll, or many short ones. A thread that was blocked
//! in one system call all the time, and never on-CPU, is certain; a thread that runs is believed
//! only after a much longer time.

use std::time::Duration;

use crate::os::{Clock, SchedStat, ThreadState};

/// A running worker is occupied if its counters have not changed for this many thresholds, and for
/// this long. With polls of 1 ms, those of a healthy worker were seen unchanged for 79 ms.
const RUNNING_THRESHOLDS: u64 = 20;
const MIN_RUNNING: Duration = Duration::from_millis(500);

/// What the latest scans found of one worker. Times are in ticks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WorkerState {
    activity: WorkerActivity,
    /// Since when `activity` has not changed.
    unchanged_since: u64,
    /// What the thread has been blocked in without interruption, and since when.
    blocked: Option<(ThreadState, SchedStat)>,
    blocked_since: u64,
    /// How long `activity` must be unchanged before the thread is sampled again.
    next_sample: u64,
}

/// Signs of activity of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WorkerActivity {
    pub(super) counters: [u64; 2],
    /// Changes with every measured poll on the worker's thread.
    pub(super) polls: u64,
}

/// How long a worker must have been inactive. Times are in ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkerLimits {
    /// Before its thread is sampled.
    pub(super) suspect: u64,
    /// Before it is occupied, if its thread is blocked.
    pub(super) blocked: u64,
    /// Before it is occupied, if its thread runs.
    pub(super) running: u64,
}

/// What the latest sample of a worker means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    /// Nothing: it is not known to be occupied.
    Wait,
    /// It has been occupied since this moment.
    Occupied { since: u64 },
    /// It is still occupied.
    StillOccupied,
    /// It is not occupied, or not any more.
    Free,
}

// === impl WorkerState ===

impl WorkerState {
    /// Records the activity of a worker. Returns whether it is active, and therefore free.
    pub(super) fn is_active(
        &mut self,
        activity: WorkerActivity,
        is_idle_or_measured: bool,
        limits: WorkerLimits,
        now: u64,
    ) -> bool {
        let is_active = is_idle_or_measured || self.activity != activity;
        if is_active {
            *self = Self {
                activity,
                unchanged_since: now,
                next_sample: limits.suspect,
                ..Self::default()
            };
        }
        is_active
    }

    /// Returns whether the thread of an inactive worker is to be sampled now.
    pub(super) fn is_sample_due(&self, now: u64) -> bool {
        now.saturating_sub(self.unchanged_since) >= self.next_sample
    }

    /// Records a sample of the thread of an inactive worker, and decides. `None` means that the
    /// thread is unknown or has ended.
    pub(super) fn next(
        &mut self,
        sample: Option<(ThreadState, SchedStat)>,
        is_occupied: bool,
        limits: WorkerLimits,
        now: u64,
    ) -> Transition {
        let Some(sample) = sample else { return Transition::Free };
        if self.has_resumed(sample, now) && is_occupied {
            // What has been reported is not reported again as a part of something longer.
            (self.unchanged_since, self.next_sample) = (now, limits.suspect);
            return Transition::Free;
        }
        let age = now.saturating_sub(self.unchanged_since);
        // A blocked thread is sampled at each scan, a running one at each doubling.
        let is_close = self.blocked.is_some() || is_occupied;
        self.next_sample = if is_close { age } else { age.saturating_mul(2) };
        match self.occupied_since(limits, now) {
            _ if is_occupied => Transition::StillOccupied,
            Some(since) => Transition::Occupied { since },
            None => Transition::Wait,
        }
    }

    /// Records what the thread does. Returns whether it was blocked up to now, and is no longer, or
    /// not in the same call.
    fn has_resumed(&mut self, (state, stat): (ThreadState, SchedStat), now: u64) -> bool {
        let blocked = (state != ThreadState::Running).then_some((state, stat));
        if blocked.is_some() && blocked == self.blocked {
            return false;
        }
        let was_blocked = self.blocked.is_some();
        (self.blocked, self.blocked_since) = (blocked, now);
        was_blocked
    }

    /// Returns since when the worker is occupied, if that is beyond doubt.
    fn occupied_since(&self, limits: WorkerLimits, now: u64) -> Option<u64> {
        let (since, limit) = if self.blocked.is_some() {
            (self.blocked_since, limits.blocked)
        } else {
            (self.unchanged_since, limits.running)
        };
        (now.saturating_sub(since) > limit).then_some(since)
    }
}

// === impl WorkerLimits ===

impl WorkerLimits {
    pub(super) fn new(clock: &Clock, suspect: u64, threshold: u64) -> Self {
        let running = threshold.saturating_mul(RUNNING_THRESHOLDS).max(clock.ticks(MIN_RUNNING));
        Self { suspect, blocked: threshold, running }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::{BlockedIn, Syscall};

    const LIMITS: WorkerLimits = WorkerLimits { suspect: 5, blocked: 25, running: 500 };

    fn stat(timeslices: u64) -> SchedStat {
        SchedStat { run_delay: Duration::ZERO, timeslices }
    }

    fn blocked(timeslices: u64) -> Option<(ThreadState, SchedStat)> {
        let blocked = BlockedIn { syscall: Syscall(230), arg0: 0, sp: 1, pc: 2 };
        Some((ThreadState::Blocked(blocked), stat(timeslices)))
    }

    fn running() -> Option<(ThreadState, SchedStat)> {
        Some((ThreadState::Running, stat(1)))
    }

    /// Creates the state of a worker that was active at 0 for the last time.
    fn inactive() -> WorkerState {
        let mut state = WorkerState::default();
        assert!(state.is_active(activity(1), false, LIMITS, 0));
        assert!(!state.is_active(activity(1), false, LIMITS, 1));
        state
    }

    fn activity(polls: u64) -> WorkerActivity {
        WorkerActivity { counters: [2, 100], polls }
    }

    /// Feeds samples, as far as they are due, and returns the transitions.
    fn transitions(
        state: &mut WorkerState,
        samples: impl IntoIterator<Item = (u64, Option<(ThreadState, SchedStat)>)>,
    ) -> Vec<(u64, Transition)> {
        let (mut transitions, mut is_occupied) = (Vec::new(), false);
        for (now, sample) in samples {
            if !state.is_sample_due(now) {
                continue;
            }
            let transition = state.next(sample, is_occupied, LIMITS, now);
            is_occupied =
                matches!(transition, Transition::Occupied { .. } | Transition::StillOccupied);
            transitions.push((now, transition));
        }
        transitions
    }

    #[test]
    fn a_blocked_worker_is_occupied_once_it_exceeds_the_threshold() {
        let samples = [2, 5, 20, 30, 31, 40].map(|now| (now, blocked(1)));
        let expected = [
            (5, Transition::Wait),
            (20, Transition::Wait),
            (30, Transition::Wait),
            (31, Transition::Occupied { since: 5 }),
            (40, Transition::StillOccupied),
        ];
        assert_eq!(transitions(&mut inactive(), samples), expected);
    }

    #[test]
    fn a_worker_that_was_on_cpu_between_two_samples_is_not_occupied() {
        let samples = [(5, blocked(1)), (20, blocked(2)), (31, blocked(2)), (46, blocked(2))];
        let expected = [
            (5, Transition::Wait),
            (20, Transition::Wait),
            (31, Transition::Wait),
            (46, Transition::Occupied { since: 20 }),
        ];
        assert_eq!(transitions(&mut inactive(), samples), expected);
    }

    #[test]
    fn an_occupied_worker_that_resumes_is_free() {
        let samples = [(5, blocked(1)), (40, blocked(1)), (45, running()), (46, running())];
        let expected = [
            (5, Transition::Wait),
            (40, Transition::Occupied { since: 5 }),
            (45, Transition::Free),
        ];
        assert_eq!(transitions(&mut inactive(), samples), expected, "the next sample is due at 50");
    }

    #[test]
    fn a_running_worker_is_sampled_at_each_doubling_and_believed_late() {
        let samples = (0..700).map(|now| (now, running()));
        let seen = transitions(&mut inactive(), samples);
        let doublings: Vec<_> = seen
            .iter()
            .take_while(|(_, transition)| *transition == Transition::Wait)
            .map(|(now, _)| *now)
            .collect();
        assert_eq!(doublings, [5, 10, 20, 40, 80, 160, 320]);
        assert_eq!(seen[doublings.len()], (640, Transition::Occupied { since: 0 }));
    }

    #[test]
    fn a_worker_without_a_known_thread_is_free() {
        assert_eq!(transitions(&mut inactive(), [(10, None)]), [(10, Transition::Free)]);
    }

    #[test]
    fn any_activity_starts_over() {
        let mut state = inactive();
        transitions(&mut state, [(5, blocked(1)), (20, blocked(1))]);
        assert!(state.is_active(activity(2), false, LIMITS, 24));
        assert_eq!(
            transitions(&mut state, [(28, blocked(1)), (31, blocked(1))]),
            [(31, Transition::Wait)],
            "blocked since 31"
        );
        assert!(
            state.is_active(activity(2), true, LIMITS, 60),
            "parked, or inside a measured poll"
        );
    }
}
