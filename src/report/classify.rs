//! Why a poll took so long: from the breakdown of its time to the cause.

use std::time::Duration;

use crate::os::Syscall;
use crate::shard::TimeBreakdown;
use crate::stall::Cause;

/// The delays that the host caused during a poll.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostDelays {
    /// For how long the process was stopped.
    pub(super) stopped: Duration,
    /// For how long the watchdog waited in the run queue.
    pub(super) run_queue: Duration,
    /// For how long the CPU quota has kept the process off the CPU in the last one to two seconds.
    pub(super) throttled: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Classification {
    pub(super) cause: Cause,
    pub(super) syscall: Option<Syscall>,
    pub(super) detail: Option<&'static str>,
}

/// Classifies a poll that exceeded the threshold.
///
/// The host is the cause if the poll would have been under the threshold without its delays, or if
/// they account for more than half of it.
pub(super) fn classify(
    breakdown: Option<&TimeBreakdown>,
    duration: Duration,
    threshold: Duration,
    host: HostDelays,
) -> Classification {
    let active = duration.saturating_sub(host.stopped);
    if !host.stopped.is_zero() && active <= threshold {
        return Cause::Paused.into();
    }
    let Some(breakdown) = breakdown else {
        // The thread was not sampled. All that is known is whether the watchdog could not run.
        let is_preempted = host.run_queue > active / 2;
        return if is_preempted { preempted(host.run_queue, host) } else { Cause::Unknown.into() };
    };
    let (cpu, run_delay) = (breakdown.cpu, breakdown.run_delay);
    let off_cpu = breakdown.off_cpu().saturating_sub(host.stopped);
    let is_over_by_itself = active.saturating_sub(run_delay) > threshold;
    if !run_delay.is_zero() && (!is_over_by_itself || run_delay > cpu + off_cpu) {
        preempted(run_delay, host)
    } else if off_cpu > cpu || (breakdown.wall.is_zero() && breakdown.syscall.is_some()) {
        Classification { syscall: breakdown.syscall, ..Cause::Blocked.into() }
    } else if !cpu.is_zero() {
        Cause::Cpu.into()
    } else {
        Cause::Unknown.into()
    }
}

fn preempted(run_delay: Duration, host: HostDelays) -> Classification {
    let is_throttled = host.throttled > run_delay.min(Duration::from_secs(1)) / 4;
    let detail = if is_throttled { "the control group's CPU quota" } else { "the run queue" };
    Classification { detail: Some(detail), ..Cause::Preempted.into() }
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

    /// Classifies a poll by milliseconds.
    fn case(
        wall: u64,
        cpu: u64,
        run_delay: u64,
        duration: u64,
        host: HostDelays,
    ) -> Classification {
        let breakdown = TimeBreakdown {
            wall: millis(wall),
            cpu: millis(cpu),
            run_delay: millis(run_delay),
            syscall: FUTEX,
            ..TimeBreakdown::default()
        };
        classify(Some(&breakdown), millis(duration), millis(25), host)
    }

    #[test]
    fn the_largest_share_is_the_cause() {
        let host = HostDelays::default();
        let blocked = case(95, 1, 0, 100, host);
        assert_eq!((blocked.cause, blocked.syscall), (Cause::Blocked, FUTEX));
        let cpu = case(95, 90, 2, 100, host);
        assert_eq!((cpu.cause, cpu.syscall), (Cause::Cpu, None));
        let preempted = case(95, 20, 70, 100, host);
        assert_eq!((preempted.cause, preempted.detail), (Cause::Preempted, Some("the run queue")));
    }

    #[test]
    fn the_host_is_the_cause_if_the_poll_is_not_a_stall_without_it() {
        assert_eq!(case(35, 22, 14, 38, HostDelays::default()).cause, Cause::Preempted);
        let stopped = HostDelays { stopped: millis(300), ..HostDelays::default() };
        assert_eq!(case(305, 4, 0, 310, stopped).cause, Cause::Paused);
        assert_eq!(case(395, 90, 0, 400, stopped).cause, Cause::Cpu, "100 ms by itself");
    }

    #[test]
    fn the_cpu_quota_is_named_if_it_throttles() {
        let throttled = HostDelays { throttled: millis(60), ..HostDelays::default() };
        let preempted = case(95, 20, 70, 100, throttled);
        assert_eq!(preempted.detail, Some("the control group's CPU quota"));
    }

    #[test]
    fn a_thread_that_was_not_sampled_is_unknown_unless_the_host_was_overloaded() {
        let case = |host| classify(None, millis(60), millis(25), host).cause;
        assert_eq!(case(HostDelays::default()), Cause::Unknown);
        let overloaded = HostDelays { run_queue: millis(50), ..HostDelays::default() };
        assert_eq!(case(overloaded), Cause::Preempted);
    }
}
