//! Splits the time of a stall by what the thread was doing: from the watchdog's samples, which
//! begin after the poll has, to parts that add up to the stall's duration.

use std::time::Duration;

use crate::shard::TimeBreakdown;
use crate::stall::TimeSplit;

/// How the host delayed the watchdog itself during a part of a poll.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostDelay {
    /// For how long the process was stopped.
    pub(super) stopped: Duration,
    /// For how long the watchdog waited in the run queue.
    pub(super) run_queue: Duration,
}

/// How the host delayed the watchdog before and after its first sample of a poll.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostDelays {
    pub(super) before_sample: HostDelay,
    pub(super) since_sample: HostDelay,
}

/// Splits the time of a stall.
///
/// The thread's own accounts decide over the time since the first sample: no stop of the process
/// can have taken what the thread spent on-CPU or in the run queue. Of the time before the first
/// sample, the run queue has what the thread waited there beyond the time that was sampled, or what
/// the watchdog itself waited, as far as the thread's accounts allow that. The rest is divided in
/// proportion to the time that was sampled, but not beyond what the accounts of the thread allow;
/// what is left then was off-CPU. Without samples, these bounds and the watchdog's delays are all
/// that is known, and the rest counts as off-CPU.
pub(super) fn split(
    breakdown: Option<&TimeBreakdown>,
    duration: Duration,
    delays: &HostDelays,
) -> TimeSplit {
    let (before, since) = (delays.before_sample, delays.since_sample);
    let max_run_queue = breakdown.map_or(Duration::MAX, max_run_queue);
    let Some(breakdown) = breakdown.filter(|breakdown| !breakdown.wall.is_zero()) else {
        let stopped = (before.stopped + since.stopped).min(duration);
        let run_queue = (before.run_queue + since.run_queue).min(max_run_queue);
        let run_queue = run_queue.min(duration - stopped);
        let off_cpu = duration - stopped - run_queue;
        return TimeSplit { off_cpu, run_queue, stopped, ..TimeSplit::default() };
    };
    let sampled = sampled(breakdown, duration, since.stopped);
    let mut split = not_sampled(breakdown, &sampled, duration, before);
    split.add(&sampled);
    split
}

/// Returns the longest time that the thread can have waited in the run queue before the first
/// sample: the kernel accounts for a wait when it ends, which may be after that.
fn max_run_queue(breakdown: &TimeBreakdown) -> Duration {
    breakdown.max_run_delay_before.saturating_add(breakdown.run_delay)
}

/// Splits the time since the first sample. It is more than the duration if nested stalls, which are
/// reported by themselves, or a hand-off have shortened that.
fn sampled(breakdown: &TimeBreakdown, duration: Duration, stopped: Duration) -> TimeSplit {
    let wall = breakdown.wall;
    let cpu = breakdown.cpu.min(wall);
    let run_queue = breakdown.run_delay.min(wall - cpu);
    let stopped = stopped.min(breakdown.off_cpu());
    let share = |part| scale(part, wall.min(duration), wall);
    let (cpu, run_queue, stopped) = (share(cpu), share(run_queue), share(stopped));
    let off_cpu = wall.min(duration) - cpu - run_queue - stopped;
    TimeSplit { cpu, off_cpu, run_queue, stopped }
}

/// Splits the time before the first sample.
fn not_sampled(
    breakdown: &TimeBreakdown,
    sampled: &TimeSplit,
    duration: Duration,
    delay: HostDelay,
) -> TimeSplit {
    let total = duration.saturating_sub(breakdown.wall);
    let stopped = delay.stopped.min(total);
    // The kernel accounts for a wait in the run queue when the wait ends.
    let waited = breakdown.run_delay.saturating_sub(breakdown.wall.saturating_sub(breakdown.cpu));
    let delay = delay.run_queue.min(max_run_queue(breakdown));
    let waited = waited.max(delay).min(total - stopped);
    let rest = total - stopped - waited;
    let share = |part| scale(part, rest, sampled.own() + sampled.run_queue);
    let cpu = share(sampled.cpu).min(breakdown.max_cpu_before);
    let run_queue = share(sampled.run_queue).min(breakdown.max_run_delay_before);
    TimeSplit { cpu, off_cpu: rest - cpu - run_queue, run_queue: waited + run_queue, stopped }
}

/// Returns `part` × `to` ÷ `from`, rounded down; zero if `from` is.
fn scale(part: Duration, to: Duration, from: Duration) -> Duration {
    let scaled = (part.as_nanos() * to.as_nanos()).checked_div(from.as_nanos());
    Duration::from_nanos(scaled.and_then(|nanos| u64::try_from(nanos).ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn delay(stopped: u64, run_queue: u64) -> HostDelay {
        HostDelay { stopped: millis(stopped), run_queue: millis(run_queue) }
    }

    /// Splits a stall by milliseconds: wall, on-CPU and run queue since the first sample. Returns
    /// on-CPU, off-CPU, run queue, stopped.
    fn case(
        sampled: Option<[u64; 3]>,
        duration: u64,
        before_sample: HostDelay,
        since_sample: HostDelay,
    ) -> [u64; 4] {
        let breakdown = sampled.map(|[wall, cpu, run_delay]| TimeBreakdown {
            wall: millis(wall),
            cpu: millis(cpu),
            run_delay: millis(run_delay),
            max_cpu_before: Duration::MAX,
            max_run_delay_before: Duration::MAX,
            ..TimeBreakdown::default()
        });
        let delays = HostDelays { before_sample, since_sample };
        let split = split(breakdown.as_ref(), millis(duration), &delays);
        assert_eq!(split.parts().iter().sum::<Duration>(), millis(duration), "{split:?}");
        split.parts().map(|part| u64::try_from(part.as_millis()).unwrap())
    }

    const NONE: fn() -> HostDelay = HostDelay::default;

    #[test]
    fn the_time_before_the_first_sample_is_divided_in_proportion() {
        assert_eq!(case(Some([90, 60, 30]), 100, NONE(), NONE()), [66, 0, 33, 0]);
        assert_eq!(case(Some([95, 0, 0]), 100, NONE(), NONE()), [0, 100, 0, 0]);
        assert_eq!(case(Some([200, 50, 50]), 100, NONE(), NONE()), [25, 50, 25, 0], "nested");
    }

    #[test]
    fn before_the_first_sample_the_run_queue_has_what_is_known_of_it() {
        let sampled = Some([40, 40, 0]);
        assert_eq!(case(sampled, 100, delay(0, 50), NONE()), [50, 0, 50, 0], "the watchdog's");
        assert_eq!(case(sampled, 100, delay(0, 90), NONE()), [40, 0, 60, 0]);
        let waited_since_before = Some([40, 10, 60]);
        assert_eq!(case(waited_since_before, 100, NONE(), NONE()), [17, 0, 82, 0]);
    }

    #[test]
    fn before_the_first_sample_a_thread_has_used_no_more_than_its_accounts_say() {
        let breakdown = TimeBreakdown {
            wall: millis(2),
            cpu: millis(1),
            run_delay: millis(1),
            max_cpu_before: millis(7),
            max_run_delay_before: millis(3),
            ..TimeBreakdown::default()
        };
        let split = split(Some(&breakdown), millis(60), &HostDelays::default());
        let expected = TimeSplit {
            cpu: millis(8),
            off_cpu: millis(48),
            run_queue: millis(4),
            stopped: Duration::ZERO,
        };
        assert_eq!(split, expected);
    }

    #[test]
    fn the_watchdogs_wait_for_a_core_is_not_that_of_a_thread_which_slept() {
        let split_of = |wall, max_run_delay_before| {
            let breakdown = TimeBreakdown {
                wall: millis(wall),
                run_delay: millis(wall / 20),
                max_run_delay_before: millis(max_run_delay_before),
                ..TimeBreakdown::default()
            };
            let delays = HostDelays { before_sample: delay(0, 70), since_sample: NONE() };
            let split = split(Some(&breakdown), millis(80), &delays);
            [split.off_cpu, split.run_queue].map(|part| part.as_millis())
        };
        assert_eq!(split_of(0, 1), [79, 1], "not sampled");
        assert_eq!(split_of(0, 75), [10, 70], "it has waited as well");
        assert_eq!(split_of(20, 1), [76, 4]);
        assert_eq!(split_of(20, 65), [19, 61]);
    }

    #[test]
    fn a_stop_takes_only_what_the_thread_has_not_used() {
        assert_eq!(case(Some([1_000, 10, 0]), 1_000, NONE(), delay(600, 0)), [10, 390, 0, 600]);
        assert_eq!(case(Some([100, 90, 5]), 100, NONE(), delay(60, 0)), [90, 0, 5, 5]);
        assert_eq!(case(Some([50, 50, 0]), 650, delay(600, 0), NONE()), [50, 0, 0, 600]);
    }

    #[test]
    fn without_samples_the_watchdogs_delays_count_and_the_rest_is_off_cpu() {
        assert_eq!(case(None, 100, NONE(), NONE()), [0, 100, 0, 0]);
        assert_eq!(case(None, 100, delay(20, 30), delay(5, 5)), [0, 40, 35, 25]);
        assert_eq!(case(None, 100, delay(80, 90), NONE()), [0, 0, 20, 80]);
        assert_eq!(case(Some([0, 0, 0]), 100, NONE(), NONE()), [0, 100, 0, 0], "one sample");
    }

    #[test]
    fn no_rounding_is_lost() {
        for duration in [7, 33, 101, 999] {
            case(Some([3, 1, 1]), duration, delay(1, 2), delay(1, 0));
        }
    }
}
