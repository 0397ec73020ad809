//! Builds a [`Stall`] from what was measured.

use std::sync::Arc;
use std::time::Duration;

use super::classify::{Classification, classify};
use super::split::{HostDelay, HostDelays, split};
use crate::os::Syscall;
use crate::stacks::CaptureFailure;
use crate::stall::{Cause, Missing, Stall, TimeSplit};
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
        let split = self.split();
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
            rescued: stall.rescued_at.is_some(),
            delayed: Arc::default(),
            missing: self.missing(classification.cause, sample),
            frames: sample.map_or_else(|| [].into(), |sample| Arc::clone(&sample.frames)),
        })
    }

    /// Returns where the time of the stall went.
    pub(super) fn split(&self) -> TimeSplit {
        let duration = self.monitor.clock.duration(self.stall.ticks);
        split(self.stall.breakdown.as_ref(), duration, &self.host_delays())
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
            return sample.missing.map(Missing::Capture);
        }
        let failure = || self.monitor.capture_failure(self.stall.id);
        Some(match cause {
            Cause::Cpu if !self.monitor.stack_signals => Missing::Capture(CaptureFailure::Running),
            _ if self.samples.is_empty() && self.monitor.capture_pool.is_pending(self.stall.id) => {
                Missing::NotSymbolized
            }
            _ if self.samples.is_empty() => match failure() {
                None | Some(CaptureFailure::Ended) if self.in_progress => Missing::NotCaptured,
                failure => Missing::Capture(failure.unwrap_or(CaptureFailure::Ended)),
            },
            Cause::Cpu => Missing::OnlyBlocked,
            _ => Missing::OnlyRunning,
        })
    }
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
    let page_fault =
        || syscall.filter(|syscall| *syscall == Syscall::PAGE_FAULT).map(|_| "a page fault");
    let fd_target = || sample.filter(|_| syscall.is_some())?.fd_target.clone();
    let kernel_call = || {
        let function = sample?.kernel_call.as_ref()?;
        Some(format!("in the kernel: `{function}`").into())
    };
    let known = classification.detail.or_else(page_fault).map(Arc::from);
    known.or_else(fd_target).or_else(kernel_call)
}
