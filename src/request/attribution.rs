//! What a poll that is long or late, and a late request, record for the attribution of delays.

use super::record::RequestState;
use crate::routes::RouteId;
use crate::shard::Shard;
use crate::state::{Delay, Lane, LongPoll, MonitorState};

/// Records a poll that is no stall, but may have delayed others.
pub(super) fn record_poll(state: &RequestState, start: u64, end: u64) {
    if !state.shard.context.is_attributed(end.wrapping_sub(start)) {
        return;
    }
    let Some(monitor) = state.local.monitor() else { return };
    let host = monitor.clock.ticks(state.shard.preemption.take()).min(end - start);
    let (lane, route) = (lane(&state.shard), state.route);
    monitor.attribution.push_long_poll(LongPoll { lane, route, start, end, host });
}

/// Records that a request was polled later than it could have been.
pub(super) fn record_schedule_latency(state: &RequestState, ready: u64, polled: u64) {
    if !state.shard.context.is_attributed(polled.wrapping_sub(ready)) {
        return;
    }
    let Some(monitor) = state.local.monitor() else { return };
    record_delay(&monitor, &state.shard, state.route, ready, polled, false);
}

/// Records that the bytes of a request have waited in a socket until they were read.
pub(super) fn record_socket_wait(
    monitor: &MonitorState,
    shard: &Shard,
    route: RouteId,
    arrived: u64,
    read: u64,
) {
    record_delay(monitor, shard, route, arrived, read, true);
}

fn record_delay(
    monitor: &MonitorState,
    shard: &Shard,
    route: RouteId,
    ready: u64,
    polled: u64,
    in_socket: bool,
) {
    let lane = lane(shard);
    let busy_since = match lane {
        Lane::Worker(worker) => monitor.worker_load.busy_since(worker).unwrap_or(polled),
        Lane::UnknownWorker(_) | Lane::Thread(_) => polled,
    };
    let delay = Delay { lane, route, ready, polled, in_socket, busy_since };
    monitor.attribution.push_delay(delay);
}

fn lane(shard: &Shard) -> Lane {
    match shard.worker() {
        Some(worker) => Lane::Worker(worker),
        None if shard.is_unknown_worker() => Lane::UnknownWorker(shard.address()),
        None => Lane::Thread(shard.address()),
    }
}
