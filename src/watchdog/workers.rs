//! Workers that are occupied by unmeasured code: a task without `instrument`, or code of the
//! runtime itself.

use std::sync::Arc;

use tokio::runtime::RuntimeMetrics;

use super::inspector::{PollInspector, SampledThread};
use super::worker_counters::worker_counters;
use super::worker_state::{Transition, WorkerActivity, WorkerLimits, WorkerState};
use crate::os::Tid;
use crate::state::{MonitorState, StallInProgress, UnattributedPoll};

pub(super) struct WorkerTracker {
    monitor: Arc<MonitorState>,
    metrics: RuntimeMetrics,
    states: Box<[WorkerState]>,
}

/// What a scan found of one worker.
struct WorkerScan {
    activity: WorkerActivity,
    is_parked: bool,
    is_measured: bool,
    /// The worker's thread, if exactly one thread seems to be the worker.
    thread: Option<Tid>,
}

impl WorkerTracker {
    pub(super) fn new(monitor: Arc<MonitorState>) -> Self {
        let metrics = monitor.runtime.metrics();
        let states = vec![WorkerState::default(); monitor.unattributed.len()].into();
        Self { monitor, metrics, states }
    }

    /// Scans all workers. Returns whether one of them may be occupied, so that the next scan should
    /// be soon.
    pub(super) fn scan(&mut self, inspector: &mut PollInspector) -> bool {
        let Self { monitor, metrics, states } = self;
        let now = monitor.clock.now();
        let limits =
            WorkerLimits::new(&monitor.clock, inspector.suspect_age(), monitor.threshold());
        let mut is_suspect = false;
        for (worker, (state, unattributed)) in
            states.iter_mut().zip(&*monitor.unattributed).enumerate()
        {
            let Some(counters) = worker_counters(metrics, worker) else { continue };
            let scan = WorkerScan::new(monitor, worker, counters);
            let is_idle_or_measured = scan.is_parked || scan.is_measured;
            is_suspect |= !is_idle_or_measured;
            if state.is_active(scan.activity, is_idle_or_measured, limits, now) {
                unattributed.end(monitor, worker, now);
            } else if state.is_sample_due(now) {
                let thread = scan.thread.and_then(|tid| inspector.sample_thread(tid, now));
                let sample = thread.as_ref().map(SampledThread::state);
                let transition = state.next(sample, unattributed.start().is_some(), limits, now);
                apply(transition, monitor, worker, unattributed, now);
                if let Some(stall) = StallInProgress::unattributed(worker, unattributed, now) {
                    inspector.observe(&stall, thread);
                }
            }
        }
        is_suspect
    }
}

impl WorkerScan {
    fn new(monitor: &MonitorState, worker: usize, counters: [u64; 2]) -> Self {
        let shards = monitor.shards.iter().filter(|shard| shard.worker() == Some(worker));
        let activity = shards.clone().map(|shard| shard.current_poll.activity());
        let polls = activity.fold(0, u64::wrapping_add);
        let is_measured = shards.clone().any(|shard| shard.current_poll.read().is_some());
        let mut threads = shards.filter_map(|shard| shard.tid());
        let thread = threads.next().filter(|_| threads.next().is_none());
        Self {
            activity: WorkerActivity { counters, polls },
            is_parked: counters[0] % 2 == 1,
            is_measured,
            thread,
        }
    }
}

fn apply(
    transition: Transition,
    monitor: &MonitorState,
    worker: usize,
    unattributed: &UnattributedPoll,
    now: u64,
) {
    match transition {
        Transition::Wait | Transition::StillOccupied => {}
        Transition::Occupied { since } => unattributed.begin(since),
        Transition::Free => unattributed.end(monitor, worker, now),
    }
}
