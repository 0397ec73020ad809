//! What the slow path of a poll records for the attribution of delays.

use super::record::RequestState;
use crate::shard::Shard;
use crate::state::{Delay, Lane, LongPoll};

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
pub(super) fn record_delay(state: &RequestState, ready: u64, polled: u64) {
    if !state.shard.context.is_attributed(polled.wrapping_sub(ready)) {
        return;
    }
    let Some(monitor) = state.local.monitor() else { return };
    let lane = lane(&state.shard);
    let busy_since = match lane {
        Lane::Worker(worker) => monitor.busy_since(worker).unwrap_or(polled),
        Lane::Thread(_) => polled,
    };
    let delay = Delay { lane, route: state.route, ready, polled, busy_since };
    monitor.attribution.push_delay(delay);
}

fn lane(shard: &Shard) -> Lane {
    shard.worker().map_or(Lane::Thread(shard.address()), Lane::Worker)
}
