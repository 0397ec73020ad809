//! Why a poll lasted: from the evidence to the cause.

use std::time::Duration;

use crate::evidence::Evidence;
use crate::os::Call;
use crate::stall::Cause;

/// What the machine did during a poll, told by the watchdog's own lateness.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Machine {
    pub(super) paused: Duration,
    /// The watchdog waited for a core.
    pub(super) queued: Duration,
    /// How long the CPU quota has kept the process off the cores in the last second or two.
    pub(super) throttled: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) cause: Cause,
    pub(super) call: Option<Call>,
    pub(super) detail: Option<&'static str>,
}

/// Judges a poll of a duration that exceeded the threshold. What would not have been a stall but for the machine is the machine's
/// fault, and so is what the machine took more than half of.
pub(super) fn verdict(
    evidence: Option<&Evidence>,
    duration: Duration,
    threshold: Duration,
    machine: Machine,
) -> Verdict {
    let of = |cause| Verdict { cause, call: None, detail: None };
    let running = duration.saturating_sub(machine.paused);
    if !machine.paused.is_zero() && running <= threshold {
        return of(Cause::Paused);
    }
    let queue = |waiting: Duration| {
        let quota = machine.throttled > waiting.min(Duration::from_secs(1)) / 4;
        let detail = if quota { "the control group's CPU quota" } else { "the run queue" };
        Verdict { detail: Some(detail), ..of(Cause::Preempted) }
    };
    let Some(evidence) = evidence else {
        // Nobody saw the thread. That the watchdog could not is all there is to say.
        return if machine.queued > running / 2 { queue(machine.queued) } else { of(Cause::Unknown) };
    };
    let (cpu, waiting) = (evidence.cpu, evidence.waiting);
    let asleep = evidence.asleep().saturating_sub(machine.paused);
    let would_be_none = running.saturating_sub(waiting) <= threshold;
    if waiting > Duration::ZERO && (would_be_none || waiting > cpu + asleep) {
        queue(waiting)
    } else if asleep > cpu || (evidence.wall.is_zero() && evidence.call.is_some()) {
        Verdict { call: evidence.call, ..of(Cause::Blocked) }
    } else if cpu > Duration::ZERO {
        of(Cause::Cpu)
    } else {
        of(Cause::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn judge(wall: u64, cpu: u64, waiting: u64, duration: u64, machine: Machine) -> Verdict {
        let call = Some(Call(230));
        let evidence =
            Evidence { wall: millis(wall), cpu: millis(cpu), waiting: millis(waiting), call, handed_off: false };
        verdict(Some(&evidence), millis(duration), millis(25), machine)
    }

    #[test]
    fn the_largest_share_names_the_cause() {
        let machine = Machine::default();
        assert_eq!(judge(95, 1, 0, 100, machine).cause, Cause::Blocked);
        assert_eq!(judge(95, 1, 0, 100, machine).call, Some(Call(230)));
        assert_eq!(judge(95, 90, 2, 100, machine).cause, Cause::Cpu);
        assert_eq!(judge(95, 90, 2, 100, machine).call, None);
        assert_eq!(judge(95, 20, 70, 100, machine).cause, Cause::Preempted);
        assert_eq!(judge(95, 20, 70, 100, machine).detail, Some("the run queue"));
    }

    #[test]
    fn what_is_only_a_stall_because_of_the_machine_is_the_machine_s() {
        assert_eq!(judge(35, 22, 14, 38, Machine::default()).cause, Cause::Preempted);
        let paused = Machine { paused: millis(300), ..Machine::default() };
        assert_eq!(judge(305, 4, 0, 310, paused).cause, Cause::Paused);
        assert_eq!(judge(395, 90, 0, 400, paused).cause, Cause::Cpu, "and for itself 100 ms");
        let throttled = Machine { throttled: millis(60), ..Machine::default() };
        assert_eq!(judge(95, 20, 70, 100, throttled).detail, Some("the control group's CPU quota"));
    }

    #[test]
    fn nobody_is_blamed_without_evidence() {
        let judge = |machine| verdict(None, millis(60), millis(25), machine).cause;
        assert_eq!(judge(Machine::default()), Cause::Unknown);
        assert_eq!(judge(Machine { queued: millis(50), ..Machine::default() }), Cause::Preempted);
    }
}
