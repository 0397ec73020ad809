//! A poll that has ended as a stall: one message to the reporter.

use super::record::RequestState;
use crate::os::{self, Tid};
use crate::shard::{PollInfo, Shard, ThreadSample, TimeBreakdown};
use crate::stall::Phase;
use crate::state::{EndedStall, MonitorState, StallMessage};
use crate::trace::SpanRef;

/// Returns for how many ticks a poll has stalled by itself, if that exceeds the threshold. The time
/// of nested stalls, which have been reported, is not part of it.
pub(super) fn own_stall(shard: &Shard, start: u64, ticks: u64) -> Option<u64> {
    let threshold = shard.context.thresholds.stall();
    if ticks <= threshold {
        return None;
    }
    let nested = shard.current_poll.stalled(start);
    let own = ticks.saturating_sub(nested);
    if own <= threshold {
        return None;
    }
    shard.current_poll.set_stalled(start, nested + own);
    Some(own)
}

/// Sends a stall to the reporter, or counts it if the queue is full.
pub(super) fn send(state: &RequestState, phase: Phase, start: u64, ticks: u64, end: u64) {
    let Some(monitor) = state.local.monitor() else { return };
    if monitor.queue.is_closed() {
        state.counters.add_unreported_stall(&state.shard.context.bounds, ticks);
        return;
    }
    let (shard, observations) = (&state.shard, &state.shard.observations);
    let thread = monitor.worker_at_end(shard, start);
    let breakdown = read_breakdown(shard, &monitor, start, end).map(|breakdown| TimeBreakdown {
        handed_off: thread.has_handed_off.unwrap_or_else(|| {
            // The counters of a worker that is not this thread say nothing about the poll.
            breakdown.handed_off && thread.worker == shard.worker()
        }),
        ..breakdown
    });
    // Once handed off, another thread is that worker.
    let has_worker = breakdown.is_none_or(|breakdown| !breakdown.handed_off)
        && thread.has_handed_off != Some(true);
    monitor.set_worker(shard, thread.worker.filter(|_| has_worker), thread.is_unknown_worker);
    let stall = StallMessage {
        id: shard.poll_id(start),
        poll: PollInfo { route: state.route, phase, start, span: state.span, stack_mark: 0 },
        ticks,
        threshold: shard.context.thresholds.stall(),
        worker: thread.worker.or_else(|| observations.worker(start)),
        on_worker: thread.is_on_worker,
        in_flight: monitor.other_requests_in_flight(state.route),
        io_starved: observations.is_starved(start),
        rescued_at: observations.rescued_at(start),
        breakdown,
    };
    if !monitor.queue.push_ended(EndedStall { stall, end, span: SpanRef::current() }) {
        state.counters.add_unreported_stall(&shard.context.bounds, ticks);
    }
}

/// Returns how a poll spent its time since the watchdog's first sample of it.
fn read_breakdown(
    shard: &Shard,
    monitor: &MonitorState,
    start: u64,
    end: u64,
) -> Option<TimeBreakdown> {
    let end = ThreadSample {
        thread: Tid::current(),
        at: monitor.clock.duration(end),
        cpu: os::thread_cpu_time()?,
        run_delay: os::run_delay(Tid::current()),
        blocked_in: None,
    };
    Some(shard.observations.breakdown_at_end(start, &end))
}
