//! The schedule latency of a request: from a wake to the poll that it led to.

use super::attribution;
use super::record::RequestState;
use crate::shard::Shard;

/// Records the latency of a poll that a wake led to.
#[inline(always)]
pub(super) fn record(state: &RequestState, shard: &Shard, woken_at: u64, poll_start: u64) {
    // A future that wakes itself cannot be polled before its current poll has ended.
    let ready = woken_at.max(state.last_poll_end);
    let latency = poll_start.wrapping_sub(ready);
    if latency <= shard.context.bounds.first() {
        state.counters.add_short_schedule_latency(latency);
    } else {
        record_long(state, shard, ready, poll_start);
    }
}

/// A negative latency, which occurs where the clocks of two processors differ, counts as zero.
#[cold]
fn record_long(state: &RequestState, shard: &Shard, ready: u64, poll_start: u64) {
    let latency = poll_start.saturating_sub(ready);
    state.counters.add_schedule_latency(&shard.context.bounds, latency);
    attribution::record_schedule_latency(state, ready, poll_start);
}
