//! From what was measured of a stall to what is told of it.

use std::sync::Arc;
use std::time::Duration;

use super::verdict::{Machine, Verdict, verdict};
use crate::board::{Sample, weighed};
use crate::cells::Poll;
use crate::evidence::Evidence;
use crate::os::Call;
use crate::shared::{Finished, Hitch, Shared, Sighting};
use crate::stall::{Cause, Missing, Stall};

/// A stall as it was measured, whether it is over or not.
struct Measured<'a> {
    poll: Poll,
    /// How long it lasted by itself, in ticks.
    ticks: u64,
    end: u64,
    threshold: u64,
    evidence: Option<&'a Evidence>,
    samples: &'a [Sample],
    /// How long the CPU quota has kept the process off the cores of late.
    throttled: Duration,
}

impl Stall {
    pub(super) fn of_finished(
        shared: &Shared,
        finished: &Finished,
        samples: &[Sample],
        throttled: Duration,
    ) -> Option<Self> {
        let measured = Measured {
            poll: finished.poll,
            ticks: finished.ticks,
            end: finished.end,
            threshold: finished.threshold,
            evidence: finished.evidence.as_ref(),
            samples,
            throttled,
        };
        let stall = measured.told(shared)?;
        let Finished { worker, io_starved, rescued, held_up, .. } = *finished;
        Some(Self { worker, io_starved, rescued, held_up, ..stall })
    }

    pub(crate) fn of_sighting(
        shared: &Shared,
        sighting: &Sighting,
        samples: &[Sample],
        throttled: Duration,
    ) -> Option<Self> {
        let measured = Measured {
            poll: sighting.poll,
            ticks: sighting.ticks,
            end: sighting.poll.start + sighting.ticks,
            threshold: shared.threshold(),
            evidence: sighting.evidence.as_ref(),
            samples,
            throttled,
        };
        let stall = measured.told(shared)?;
        let Sighting { worker, io_starved, rescued, held_up, .. } = *sighting;
        Some(Self { in_progress: true, worker, io_starved, rescued, held_up, ..stall })
    }
}

/// Whether a long poll has given its worker away. A stack says so either way; without one the worker's counters do.
pub(super) fn is_handed_off(evidence: Option<&Evidence>, samples: &[Sample]) -> bool {
    match samples {
        [] => evidence.is_some_and(|evidence| evidence.handed_off),
        samples => samples.iter().any(|sample| sample.handed_off),
    }
}

/// How long a poll that lasted for so many ticks had held its worker when it gave that away: from then on it held nobody.
pub(super) fn held_before(samples: &[Sample], ticks: u64) -> u64 {
    let held = weighed(samples, ticks).take_while(|(sample, _)| !sample.handed_off);
    held.map(|(_, weight)| weight).sum()
}

// === impl Measured ===

impl Measured<'_> {
    fn told(&self, shared: &Shared) -> Option<Stall> {
        let route = shared.routes.get(self.poll.route)?;
        let duration = shared.clock.duration(self.ticks);
        let threshold = shared.clock.duration(self.threshold);
        let verdict = verdict(self.evidence, duration, threshold, self.machine(shared));
        let sample = self.culprit(verdict.cause);
        let call = call(&verdict, sample);
        Some(Stall {
            method: route.method,
            route: Arc::clone(&route.name),
            phase: self.poll.phase,
            duration,
            threshold,
            in_progress: false,
            cause: verdict.cause,
            syscall: call.and_then(Call::name),
            detail: detail(&verdict, call, sample),
            worker: None,
            held_up: 0,
            io_starved: false,
            rescued: false,
            missing: self.missing(shared, verdict.cause, sample),
            frames: sample.map_or_else(|| [].into(), |sample| Arc::clone(&sample.frames)),
        })
    }

    fn machine(&self, shared: &Shared) -> Machine {
        let during = |kind| shared.clock.duration(shared.hitches.during(kind, self.poll.start, self.end));
        Machine { paused: during(Hitch::Pause), queued: during(Hitch::Queue), throttled: self.throttled }
    }

    /// The stack of the place where most of the time went, of those that fit the cause.
    fn culprit(&self, cause: Cause) -> Option<&Sample> {
        let fits = |sample: &Sample| match cause {
            Cause::Blocked => sample.asleep_in.is_some(),
            Cause::Cpu => sample.asleep_in.is_none(),
            Cause::Preempted | Cause::Paused => false,
            Cause::Unknown => true,
        };
        let weighed: Vec<_> = weighed(self.samples, self.ticks).filter(|(sample, _)| fits(sample)).collect();
        let time_at = |place: &Sample| -> u64 {
            let here = weighed.iter().filter(|(sample, _)| sample.place() == place.place());
            here.map(|(_, weight)| weight).sum()
        };
        weighed.iter().map(|(sample, _)| *sample).max_by_key(|sample| time_at(sample))
    }

    fn missing(&self, shared: &Shared, cause: Cause, sample: Option<&Sample>) -> Option<Missing> {
        match (shared.no_stacks, sample) {
            (Some(why), _) => Some(Missing::Stacks(why)),
            (None, Some(sample)) => sample.lacks_lines.then_some(Missing::Lines),
            (None, None) if matches!(cause, Cause::Preempted | Cause::Paused) => None,
            (None, None) if cause == Cause::Cpu && !shared.stack_signals => Some(Missing::Running),
            (None, None) if self.samples.is_empty() => Some(Missing::NotCaught),
            (None, None) if cause == Cause::Cpu => Some(Missing::OnlyAsleep),
            (None, None) => Some(Missing::OnlyRunning),
        }
    }
}

/// The system call that the thread was blocked in; where there is a line, the one it was in there.
fn call(verdict: &Verdict, sample: Option<&Sample>) -> Option<Call> {
    let there = sample.and_then(|sample| sample.asleep_in);
    there.or(verdict.call).filter(|_| verdict.cause == Cause::Blocked)
}

fn detail(verdict: &Verdict, call: Option<Call>, sample: Option<&Sample>) -> Option<Arc<str>> {
    let page = || call.filter(|call| call.0 < 0).map(|_| "a page of memory");
    let descriptor = || sample.filter(|_| call.is_some())?.descriptor.clone();
    verdict.detail.or_else(page).map(Arc::from).or_else(descriptor)
}
