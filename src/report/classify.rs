//! Why a poll took so long: from the breakdown of its time to the cause.

use std::time::Duration;

use crate::os::{CPU_TIME_UNIT, Syscall};
use crate::shard::TimeBreakdown;
use crate::stall::{Cause, TimeSplit};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Classification {
    pub(super) cause: Cause,
    pub(super) syscall: Option<Syscall>,
    pub(super) detail: Option<&'static str>,
}

/// Classifies a poll that exceeded the threshold.
///
/// The code is the cause if its own time alone exceeds the threshold, whatever the host has added;
/// the host only if the poll would have been no stall without it. `throttled` is for how long the
/// CPU quota has kept the process off the CPU in the last one to two seconds.
pub(super) fn classify(
    breakdown: Option<&TimeBreakdown>,
    split: &TimeSplit,
    threshold: Duration,
    throttled: Duration,
) -> Classification {
    let waited = split.run_queue;
    let is_throttled = throttled > waited.min(Duration::from_secs(1)) / 4;
    if split.own() <= threshold && !split.host().is_zero() {
        if split.stopped > waited {
            return Cause::Paused.into();
        }
        let detail = if is_throttled { "the control group's CPU quota" } else { "the run queue" };
        return Classification { detail: Some(detail), ..Cause::Preempted.into() };
    }
    let Some(breakdown) = breakdown.filter(|breakdown| is_conclusive(breakdown, CPU_TIME_UNIT))
    else {
        return Cause::Unknown.into();
    };
    if split.off_cpu > split.cpu {
        return Classification { syscall: breakdown.syscall, ..Cause::Blocked.into() };
    }
    let is_slowed = is_throttled && waited > split.own() / 4;
    let detail = is_slowed.then_some("throttled by the control group's CPU quota");
    Classification { detail, ..Cause::Cpu.into() }
}

/// Returns whether the samples show how the thread has spent its time, if the system counts CPU time
/// in units: in less than one unit, a thread that runs may have used none.
fn is_conclusive(breakdown: &TimeBreakdown, unit: Duration) -> bool {
    let is_sampled = !breakdown.wall.is_zero() || breakdown.syscall.is_some();
    is_sampled && breakdown.wall >= unit
}

impl From<Cause> for Classification {
    fn from(cause: Cause) -> Self {
        Self { cause, syscall: None, detail: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUTEX: Option<Syscall> = Some(Syscall(230));

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Classifies a poll by the milliseconds on-CPU, off-CPU, in the run queue and stopped, of
    /// which the quota has taken `throttled`.
    fn case([cpu, off_cpu, run_queue, stopped]: [u64; 4], throttled: u64) -> Classification {
        let split = TimeSplit {
            cpu: millis(cpu),
            off_cpu: millis(off_cpu),
            run_queue: millis(run_queue),
            stopped: millis(stopped),
        };
        let breakdown =
            TimeBreakdown { wall: millis(50), syscall: FUTEX, ..TimeBreakdown::default() };
        classify(Some(&breakdown), &split, millis(25), millis(throttled))
    }

    #[test]
    fn the_larger_share_of_the_codes_own_time_is_the_cause() {
        let blocked = case([1, 99, 0, 0], 0);
        assert_eq!((blocked.cause, blocked.syscall), (Cause::Blocked, FUTEX));
        let cpu = case([95, 2, 3, 0], 0);
        assert_eq!((cpu.cause, cpu.syscall, cpu.detail), (Cause::Cpu, None, None));
    }

    #[test]
    fn what_is_a_stall_by_its_own_time_is_the_codes_whatever_the_host_adds() {
        assert_eq!(case([26, 0, 974, 0], 0).cause, Cause::Cpu);
        assert_eq!(case([0, 26, 974, 0], 0).cause, Cause::Blocked);
        assert_eq!(case([1, 999, 0, 5_000], 0).cause, Cause::Blocked);
        assert_eq!(case([13, 13, 500, 500], 0).cause, Cause::Cpu);
    }

    #[test]
    fn the_host_is_the_cause_of_what_is_no_stall_without_it() {
        let preempted = case([20, 5, 75, 0], 0);
        assert_eq!((preempted.cause, preempted.detail), (Cause::Preempted, Some("the run queue")));
        assert_eq!(case([4, 6, 0, 300], 0).cause, Cause::Paused);
        assert_eq!(case([4, 6, 200, 300], 0).cause, Cause::Paused, "the larger share");
        assert_eq!(case([4, 6, 300, 200], 0).cause, Cause::Preempted);
    }

    #[test]
    fn a_time_shorter_than_the_unit_of_cpu_time_is_inconclusive() {
        let is_conclusive = |wall, syscall, unit| {
            let breakdown =
                TimeBreakdown { wall: millis(wall), syscall, ..TimeBreakdown::default() };
            is_conclusive(&breakdown, millis(unit))
        };
        assert!(is_conclusive(1, None, 0) && is_conclusive(0, FUTEX, 0));
        assert!(!is_conclusive(0, None, 0), "not sampled");
        assert!(!is_conclusive(14, FUTEX, 15) && is_conclusive(15, None, 15));
    }

    #[test]
    fn the_cpu_quota_is_named_if_it_throttles() {
        assert_eq!(case([20, 0, 80, 0], 60).detail, Some("the control group's CPU quota"));
        let throttled = Some("throttled by the control group's CPU quota");
        assert_eq!(case([200, 0, 800, 0], 800).detail, throttled);
        assert_eq!(case([200, 0, 8, 0], 800).detail, None, "it hardly waited");
        assert_eq!(case([200, 0, 800, 0], 0).detail, None, "other processes took the CPU");
    }

    #[test]
    fn a_thread_that_was_not_sampled_is_unknown_unless_the_host_is_the_cause() {
        let case = |off_cpu, run_queue| {
            let (off_cpu, run_queue) = (millis(off_cpu), millis(run_queue));
            let split = TimeSplit { off_cpu, run_queue, ..TimeSplit::default() };
            classify(None, &split, millis(25), Duration::ZERO).cause
        };
        assert_eq!(case(60, 0), Cause::Unknown);
        assert_eq!(case(30, 30), Cause::Unknown);
        assert_eq!(case(10, 50), Cause::Preempted);
    }
}
