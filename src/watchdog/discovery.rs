use std::sync::Arc;

use crate::request::local_handle;
use crate::state::MonitorState;

/// The rounds in which workers are discovered: all of the first two seconds, then one every five.
const FIRST_ROUNDS: u32 = 16;
const ROUNDS_BETWEEN: u32 = 40;

/// Finds the threads of workers that have polled nothing measured yet, so that they can be sampled
/// if unmeasured code occupies them.
///
/// Spawns small tasks, which idle workers steal from this one. Called by a task inside the runtime,
/// eight times a second.
pub(crate) fn discover_workers(monitor: &Arc<MonitorState>, round: u32) {
    if round >= FIRST_ROUNDS && round % ROUNDS_BETWEEN != 0 {
        return;
    }
    drop(local_handle(monitor));
    let is_known = |worker| monitor.shards.iter().any(|shard| shard.worker() == Some(worker));
    let unknown = (0..monitor.unattributed.len()).filter(|&worker| !is_known(worker)).count();
    for _ in 0..unknown {
        let monitor = Arc::clone(monitor);
        let _detached = tokio::spawn(async move { drop(local_handle(&monitor)) });
    }
}
