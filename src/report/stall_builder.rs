//! Builds a [`Stall`] from what was measured.

use std::sync::Arc;
use std::time::Duration;

use super::classify::{Classification, classify};
use super::split::{HostDelay, HostDelays, split};
use crate::os::Syscall;
use crate::shard::TimeBreakdown;
use crate::stacks::ThreadRole;
use crate::stall::{Cause, Missing, Stall};
use crate::state::{DelayKind, MonitorState, StackSample, StallMessage, weighted};

/// What a report is built from.
pub(crate) struct StallBuilder<'a> {
    pub(crate) monitor: &'a MonitorState,
    pub(crate) stall: &'a StallMessage,
    /// When the poll ended, or the current time, in ticks.
    pub(crate) end: u64,
    /// When the stall ended: with the poll, or when the poll handed off its worker.
    pub(crate) stall_end: u64,
    pub(crate) in_progress: bool,
    pub(crate) samples: &'a [StackSample],
    /// For how long the CPU quota has kept the process off the CPU recently.
    pub(crate) throttled: Duration,
}

impl<'a> StallBuilder<'a> {
    /// Builds from a stall in progress.
    pub(crate) fn in_progress(
        monitor: &'a MonitorState,
        stall: &'a StallMessage,
        samples: &'a [StackSample],
        throttled: Duration,
    ) -> Self {
        let end = stall.poll.start + stall.ticks;
        Self { monitor, stall, end, stall_end: end, in_progress: true, samples, throttled }
    }

    /// Returns `None` if the route is not known.
    pub(crate) fn build(&self) -> Option<Stall> {
        let (monitor, stall) = (self.monitor, self.stall);
        let route = monitor.routes.get(stall.poll.route)?;
        let duration = monitor.clock.duration(stall.ticks);
        let threshold = monitor.clock.duration(stall.threshold);
        let breakdown = stall.breakdown.as_ref();
        let split = split(breakdown, duration, &self.host_delays());
        let classification = classify(breakdown, &split, threshold, self.throttled);
        let sample = self.representative_sample(classification.cause);
        let syscall = syscall(&classification, sample);
        Some(Stall {
            method: route.method,
            route: Arc::clone(&route.name),
            phase: stall.poll.phase,
            duration,
            split,
            threshold,
            in_progress: self.in_progress,
            cause: classification.cause,
            syscall: syscall.and_then(Syscall::name),
            detail: detail(&classification, syscall, sample),
            worker: stall.worker,
            in_flight: stall.in_flight,
            io_starved: stall.io_starved,
            rescued: stall.rescued,
            missing: self.missing(classification.cause, sample),
            frames: sample.map_or_else(|| [].into(), |sample| Arc::clone(&sample.frames)),
        })
    }

    fn host_delays(&self) -> HostDelays {
        let (clock, delays) = (&self.monitor.clock, &self.monitor.delays);
        let during = |from, to| {
            let overlap = |kind| clock.duration(delays.overlap(kind, from, to));
            HostDelay {
                stopped: overlap(DelayKind::Stopped),
                run_queue: overlap(DelayKind::RunQueue),
            }
        };
        let sampled = self.stall.breakdown.map_or(Duration::ZERO, |breakdown| breakdown.wall);
        let start = self.stall.poll.start;
        let first_sample = self.end.saturating_sub(clock.ticks(sampled));
        let first_sample = first_sample.clamp(start, self.stall_end.max(start));
        HostDelays {
            before_sample: during(start, first_sample),
            since_sample: during(first_sample, self.stall_end),
        }
    }

    /// Returns a stack of the line where most of the time was spent, of those that fit the cause.
    fn representative_sample(&self, cause: Cause) -> Option<&StackSample> {
        let fits = |sample: &StackSample| match cause {
            Cause::Blocked => sample.blocked_in.is_some(),
            Cause::Cpu => sample.blocked_in.is_none(),
            Cause::Preempted | Cause::Paused => false,
            Cause::Unknown => true,
        };
        let weighted: Vec<_> =
            weighted(self.samples, self.stall.ticks).filter(|(sample, _)| fits(sample)).collect();
        let time_at_line = |sample: &StackSample| -> u64 {
            let same_line =
                weighted.iter().filter(|(other, _)| other.location() == sample.location());
            same_line.map(|(_, weight)| weight).sum()
        };
        weighted.iter().map(|(sample, _)| *sample).max_by_key(|sample| time_at_line(sample))
    }

    fn missing(&self, cause: Cause, sample: Option<&StackSample>) -> Option<Missing> {
        if matches!(cause, Cause::Preempted | Cause::Paused) {
            return None;
        }
        if let Some(reason) = self.monitor.stacks_missing {
            return Some(Missing::Stacks(reason));
        }
        if let Some(sample) = sample {
            return sample.lacks_lines.then_some(Missing::Lines);
        }
        match cause {
            Cause::Cpu if !self.monitor.stack_signals => Some(Missing::Running),
            _ if self.samples.is_empty() => Some(Missing::NotCaptured),
            Cause::Cpu => Some(Missing::OnlyBlocked),
            _ => Some(Missing::OnlyRunning),
        }
    }
}

/// Returns whether a long poll has handed off its worker. A stack that shows the role of its thread
/// decides; without one the worker's counters do.
pub(super) fn is_handed_off(breakdown: Option<&TimeBreakdown>, samples: &[StackSample]) -> bool {
    let mut roles = samples.iter().map(|sample| sample.role);
    let by_counters = || breakdown.is_some_and(|breakdown| breakdown.handed_off);
    roles.clone().any(ThreadRole::is_off_worker)
        || !roles.any(|role| role == ThreadRole::Worker) && by_counters()
}

/// Returns for how long a poll of `ticks` ticks had stalled its worker before it handed it off.
pub(super) fn stalled_before_hand_off(samples: &[StackSample], ticks: u64) -> u64 {
    let before =
        weighted(samples, ticks).take_while(|(sample, _)| sample.role == ThreadRole::Worker);
    before.map(|(_, weight)| weight).sum()
}

/// Returns the system call that the thread was blocked in; that of the reported stack, if there is
/// one.
fn syscall(classification: &Classification, sample: Option<&StackSample>) -> Option<Syscall> {
    let of_stack = sample.and_then(|sample| sample.blocked_in);
    of_stack.or(classification.syscall).filter(|_| classification.cause == Cause::Blocked)
}

fn detail(
    classification: &Classification,
    syscall: Option<Syscall>,
    sample: Option<&StackSample>,
) -> Option<Arc<str>> {
    let page_fault = || syscall.filter(|syscall| syscall.0 < 0).map(|_| "a page fault");
    let fd_target = || sample.filter(|_| syscall.is_some())?.fd_target.clone();
    classification.detail.or_else(page_fault).map(Arc::from).or_else(fd_target)
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    use ThreadRole::{HandedOff, OffWorker, Unknown, Worker};

    fn sample(age: u64, role: ThreadRole) -> StackSample {
        StackSample {
            age,
            blocked_in: None,
            role,
            lacks_lines: false,
            fd_target: None,
            frames: [].into(),
        }
    }

    #[test]
    fn a_stack_outranks_the_counters_for_a_hand_off() {
        let moved = TimeBreakdown { handed_off: true, ..TimeBreakdown::default() };
        let unmoved = TimeBreakdown::default();
        for (breakdown, samples, expected) in [
            (Some(&moved), vec![], true),
            (Some(&unmoved), vec![], false),
            (None, vec![], false),
            (Some(&moved), vec![sample(20, Worker)], false),
            (Some(&moved), vec![sample(20, Unknown), sample(40, Worker)], false),
            (Some(&unmoved), vec![sample(20, Worker), sample(40, HandedOff)], true),
            (Some(&unmoved), vec![sample(20, OffWorker), sample(40, Unknown)], true),
            (Some(&moved), vec![sample(20, Unknown)], true),
            (Some(&unmoved), vec![sample(20, Unknown), sample(40, Unknown)], false),
            (None, vec![sample(20, Unknown)], false),
        ] {
            assert_eq!(is_handed_off(breakdown, &samples), expected, "{breakdown:?} {samples:?}");
        }
    }

    #[test]
    fn a_poll_stalls_its_worker_until_the_sample_before_the_hand_off() {
        for (samples, expected) in [
            (vec![sample(20, HandedOff)], 0),
            (vec![sample(20, Unknown)], 0),
            (vec![sample(20, Worker), sample(40, HandedOff)], 20),
            (vec![sample(20, Worker), sample(40, Worker), sample(80, OffWorker)], 40),
            (vec![sample(20, Worker), sample(40, HandedOff), sample(80, Worker)], 20),
            (vec![sample(20, Worker)], 100),
        ] {
            assert_eq!(stalled_before_hand_off(&samples, 100), expected, "{samples:?}");
        }
    }
}
