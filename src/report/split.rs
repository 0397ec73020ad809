//! Splits the time of a stall by what the thread was doing: from the watchdog's samples, which
//! begin after the poll has, to parts that add up to the stall's duration.

use std::time::Duration;

use crate::os::duration_nanos as nanos;
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
/// the watchdog itself waited, and the rest is divided in proportion to the time that was sampled.
/// Without samples, the watchdog's delays are all that is known, and the rest counts as off-CPU.
pub(super) fn split(
    breakdown: Option<&TimeBreakdown>,
    duration: Duration,
    delays: &HostDelays,
) -> TimeSplit {
    let (before, since) = (delays.before_sample, delays.since_sample);
    let Some(breakdown) = breakdown.filter(|breakdown| !breakdown.wall.is_zero()) else {
        let stopped = (before.stopped + since.stopped).min(duration);
        let run_queue = (before.run_queue + since.run_queue).min(duration - stopped);
        return TimeSplit {
            off_cpu: duration - stopped - run_queue,
            run_queue,
            stopped,
            ..TimeSplit::default()
        };
    };
    let wall = breakdown.wall;
    let not_sampled = duration.saturating_sub(wall);
    let cpu = breakdown.cpu.min(wall);
    let run_delay = breakdown.run_delay.min(wall - cpu);
    let stopped = since.stopped.min(breakdown.off_cpu()).min(duration);
    let off_cpu = breakdown.off_cpu() - stopped;

    let stopped_before = before.stopped.min(not_sampled);
    let waited_before = before.run_queue.max(breakdown.run_delay - run_delay);
    let waited_before = waited_before.min(not_sampled - stopped_before);
    let stopped = stopped + stopped_before;
    let [cpu, off_cpu, run_delay] =
        scale([cpu, off_cpu, run_delay], duration - stopped - waited_before);
    TimeSplit { cpu, off_cpu, run_queue: run_delay + waited_before, stopped }
}

/// Scales the parts on-CPU, off-CPU and run queue so that they add up to `total`.
fn scale(parts: [Duration; 3], total: Duration) -> [Duration; 3] {
    let sum: u128 = parts.iter().map(Duration::as_nanos).sum();
    let scaled = |part: Duration| {
        let nanos = (part.as_nanos() * u128::from(nanos(total))).checked_div(sum).unwrap_or(0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    };
    let [cpu, off_cpu, run_delay] = parts.map(scaled);
    // The rest of the division belongs to any part that is not empty; all of it is off-CPU if all
    // parts are empty.
    let rest = total - cpu - off_cpu - run_delay;
    match (parts[0].is_zero(), parts[1].is_zero(), parts[2].is_zero()) {
        (false, _, _) => [cpu + rest, off_cpu, run_delay],
        (_, true, false) => [cpu, off_cpu, run_delay + rest],
        _ => [cpu, off_cpu + rest, run_delay],
    }
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
