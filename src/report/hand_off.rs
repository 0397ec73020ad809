//! Whether a long poll has handed off its worker, and for how long it stalled the worker before.

use crate::routes::Routes;
use crate::stacks::ThreadRole;
use crate::state::{StackSample, StallMessage, weighted};

/// What is known about a long poll and its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stalled its worker all the time.
    Stall,
    /// It has handed off its worker, which it had stalled for so many ticks before.
    HandedOff { after: u64 },
}

/// Judges a poll.
///
/// A stack that shows the role of its thread decides; without one the worker's counters do. A
/// worker whose counters do not change goes on with nothing: neither while no thread takes over
/// what the poll hands off, nor if the poll is not measured, because such a poll is only known by
/// the counters.
pub(super) fn judge(stall: &StallMessage, samples: &[StackSample]) -> Verdict {
    let stranded_for = stall.breakdown.and_then(|breakdown| breakdown.stranded_for);
    let by_counters = stall.breakdown.is_some_and(|breakdown| breakdown.handed_off);
    let has = |is: fn(ThreadRole) -> bool| samples.iter().any(|sample| is(sample.role));
    let is_handed_off = if stall.poll.route == Routes::UNATTRIBUTED {
        has(|role| role == ThreadRole::OffWorker)
    } else if has(ThreadRole::is_off_worker) {
        stranded_for.is_none() || by_counters
    } else {
        by_counters && !has(|role| role == ThreadRole::Worker)
    };
    if !is_handed_off {
        return Verdict::Stall;
    }
    let after = stalled_before(samples, stall.ticks).max(stranded_for.unwrap_or(0));
    Verdict::HandedOff { after: after.min(stall.ticks) }
}

/// Returns for how long a poll of `ticks` ticks had stalled its worker before it handed it off.
fn stalled_before(samples: &[StackSample], ticks: u64) -> u64 {
    let before =
        weighted(samples, ticks).take_while(|(sample, _)| sample.role == ThreadRole::Worker);
    before.map(|(_, weight)| weight).sum()
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::RouteId;
    use crate::shard::{PollId, PollInfo, TimeBreakdown};
    use crate::stall::Phase;

    const STALL: Verdict = Verdict::Stall;
    const AT_ONCE: Verdict = Verdict::HandedOff { after: 0 };
    const MEASURED: u64 = 7;

    fn sample(age: u64, role: ThreadRole) -> StackSample {
        StackSample {
            age,
            blocked_in: None,
            role,
            missing: None,
            fd_target: None,
            kernel_call: None,
            frames: [].into(),
        }
    }

    fn judged(
        route: RouteId,
        breakdown: Option<TimeBreakdown>,
        samples: &[(u64, ThreadRole)],
    ) -> Verdict {
        let poll = PollInfo { route, phase: Phase::Handler, start: 1, span: 0, stack_mark: 0 };
        let stall = StallMessage {
            id: PollId { shard: 1, start: 1 },
            poll,
            ticks: 100,
            threshold: 25,
            worker: Some(0),
            on_worker: true,
            in_flight: 0,
            io_starved: false,
            rescued_at: None,
            breakdown,
        };
        let samples: Vec<_> = samples.iter().map(|&(age, role)| sample(age, role)).collect();
        judge(&stall, &samples)
    }

    #[test]
    fn a_stack_that_shows_the_role_outranks_the_counters() {
        use ThreadRole::{HandedOff, OffWorker, Unknown, Worker};
        let moved = Some(TimeBreakdown { handed_off: true, ..TimeBreakdown::default() });
        let unmoved = Some(TimeBreakdown::default());
        for (breakdown, samples, expected) in [
            (moved, &[][..], AT_ONCE),
            (unmoved, &[], STALL),
            (None, &[], STALL),
            (moved, &[(20, Unknown)], AT_ONCE),
            (unmoved, &[(20, Unknown)], STALL),
            (moved, &[(20, Worker)], STALL),
            (unmoved, &[(20, Worker), (40, HandedOff)], Verdict::HandedOff { after: 20 }),
            (unmoved, &[(20, OffWorker)], AT_ONCE),
        ] {
            let verdict = judged(RouteId::from_bits(MEASURED), breakdown, samples);
            assert_eq!(verdict, expected, "{breakdown:?} {samples:?}");
        }
    }

    #[test]
    fn a_poll_stalls_its_worker_until_the_sample_before_the_hand_off() {
        use ThreadRole::{HandedOff, Worker};
        for (samples, after) in [
            (&[(20, HandedOff)][..], 0),
            (&[(20, Worker), (40, Worker), (80, HandedOff)], 40),
            (&[(20, Worker), (40, HandedOff), (80, Worker)], 20),
        ] {
            let verdict = judged(RouteId::from_bits(MEASURED), None, samples);
            assert_eq!(verdict, Verdict::HandedOff { after }, "{samples:?}");
        }
    }

    #[test]
    fn a_worker_that_nobody_takes_over_is_stalled() {
        let samples = [(20, ThreadRole::HandedOff)];
        let stranded = TimeBreakdown { stranded_for: Some(60), ..TimeBreakdown::default() };
        let judged = |breakdown| judged(RouteId::from_bits(MEASURED), Some(breakdown), &samples);
        assert_eq!(judged(stranded), STALL);
        let later = TimeBreakdown { handed_off: true, ..stranded };
        assert_eq!(judged(later), Verdict::HandedOff { after: 60 });
    }

    #[test]
    fn a_worker_that_is_taken_over_late_was_stalled_until_then_if_no_stack_shows_the_role() {
        let late =
            TimeBreakdown { handed_off: true, stranded_for: Some(90), ..TimeBreakdown::default() };
        for samples in [&[][..], &[(20, ThreadRole::Unknown)]] {
            let verdict = judged(RouteId::from_bits(MEASURED), Some(late), samples);
            assert_eq!(verdict, Verdict::HandedOff { after: 90 }, "{samples:?}");
        }
    }

    #[test]
    fn an_unmeasured_poll_is_a_stall_unless_its_thread_is_no_worker() {
        let judged = |role| judged(Routes::UNATTRIBUTED, None, &[(20, role)]);
        assert_eq!(judged(ThreadRole::HandedOff), STALL, "no thread has taken the worker over");
        assert_eq!(judged(ThreadRole::Unknown), STALL);
        assert_eq!(judged(ThreadRole::OffWorker), AT_ONCE);
    }
}
