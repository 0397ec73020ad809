//! Workers that are occupied by unmeasured code: a task without `instrument`, or code of the
//! runtime itself.

use std::sync::Arc;

use tokio::runtime::{RuntimeFlavor, RuntimeMetrics};

use super::inspector::{PollInspector, SampledThread};
use super::timing::SUSPECT_AGE;
use super::worker_elimination::CounterChanges;
use super::worker_state::{Progress, Transition, WorkerActivity, WorkerLimits, WorkerState};
use crate::os::Tid;
use crate::shard::Shard;
use crate::state::{MonitorState, StallInProgress, UnattributedPoll, is_parked, worker_counters};

pub(super) struct WorkerTracker {
    monitor: Arc<MonitorState>,
    metrics: RuntimeMetrics,
    states: Box<[WorkerState]>,
    counter_changes: CounterChanges,
    /// Whether the runtime runs only while a thread drives it, which may also do something else.
    is_current_thread: bool,
}

/// What a scan found of all workers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WorkersScan {
    /// Whether a worker is neither parked nor inside a measured poll, so that the next scan should
    /// be soon.
    pub(super) is_busy: bool,
    /// Whether one of these has made no progress for so long that it may starve the I/O driver.
    pub(super) is_suspect: bool,
}

/// What a scan found of one worker.
struct WorkerScan {
    activity: WorkerActivity,
    is_measured: bool,
    thread: Option<Tid>,
}

// === impl WorkerTracker ===

impl WorkerTracker {
    pub(super) fn new(monitor: Arc<MonitorState>) -> Self {
        let metrics = monitor.runtime.metrics();
        let workers = monitor.unattributed.len();
        let states = vec![WorkerState::default(); workers].into();
        let counter_changes = CounterChanges::new(workers);
        let is_current_thread = monitor.runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        Self { monitor, metrics, states, counter_changes, is_current_thread }
    }

    pub(super) fn scan(&mut self, inspector: &mut PollInspector) -> WorkersScan {
        let monitor = Arc::clone(&self.monitor);
        let now = monitor.clock.now();
        if monitor.runtime_ended.is_set() {
            monitor.end_unattributed(now);
            return WorkersScan::default();
        }
        let limits = WorkerLimits::new(
            &monitor.clock,
            inspector.suspect_age(),
            monitor.threshold(),
            self.states.len(),
        );
        let has_parked = (0..self.states.len()).any(|worker| is_parked(&self.metrics, worker));
        let mut found = WorkersScan::default();
        for (worker, unattributed) in monitor.unattributed.iter().enumerate() {
            let Some(counters) = worker_counters(&self.metrics, worker) else { continue };
            self.counter_changes.record(worker, counters);
            monitor.worker_load.record_scan(worker, counters, now);
            let Some(state) = self.states.get_mut(worker) else { continue };
            let scan = WorkerScan::new(&monitor, worker, counters);
            let is_idle_or_measured = counters[0] % 2 == 1 || scan.is_measured;
            found.is_busy |= !is_idle_or_measured && state.outside_runtime().is_none();
            match state.progress(scan.activity, is_idle_or_measured, limits, now) {
                Progress::Made { may_be_batch, blocked_in } => {
                    if may_be_batch {
                        unattributed.discard();
                    } else {
                        unattributed.end(&monitor, worker, now);
                    }
                    if let Some((thread, blocked_in)) = scan.thread.zip(blocked_in) {
                        // It sleeps on, so it is not the thread that has made the progress.
                        let sample = inspector.sample_thread(thread, now);
                        if sample.is_some_and(|sample| sample.observed() == blocked_in) {
                            monitor.worker_threads.forget(worker, thread);
                        }
                    }
                }
                Progress::None if self.is_current_thread && unattributed.is_handed_off() => {
                    unattributed.discard();
                    state.set_outside_runtime();
                }
                Progress::None if is_outside_runtime(state, scan.thread, inspector, now) => {}
                Progress::None if state.outside_runtime().is_some() => {
                    state.start_over(limits, now);
                }
                Progress::None => {
                    state.set_idle_neighbor(has_parked, now);
                    found.is_suspect |= suspect(&monitor, state, unattributed, now);
                    if state.is_sample_due(now) {
                        inspect(&monitor, inspector, state, worker, scan.thread, limits, now);
                    }
                }
            }
        }
        self.find_unknown_workers(now);
        found
    }

    /// Finds on which workers those measured polls are whose threads are workers, though it is not
    /// known which. `now` is from before the counters were read.
    fn find_unknown_workers(&mut self, now: u64) {
        self.counter_changes.end_scan(now);
        let monitor = &self.monitor;
        if !monitor.worker_threads.has_unknown() {
            return;
        }
        let suspect_age = monitor.clock.ticks(SUSPECT_AGE);
        for (shard, poll, _) in monitor.polls_in_progress() {
            let (observations, start) = (&shard.observations, poll.start);
            let is_wanted = shard.is_unknown_worker() && !observations.is_handed_off(start);
            if !is_wanted || now.saturating_sub(start) < suspect_age {
                continue;
            }
            let found = self.counter_changes.only_worker(start);
            let is_free = |&worker: &usize| monitor.worker_threads.thread(worker).is_none();
            if let Some(worker) = found.filter(is_free) {
                observations.set_worker(start, worker);
            }
        }
    }
}

/// Marks a worker that has made no progress as suspected, once that has taken long enough.
fn suspect(
    monitor: &MonitorState,
    state: &WorkerState,
    unattributed: &UnattributedPoll,
    now: u64,
) -> bool {
    let since = state.unchanged_since();
    let is_suspect = now.saturating_sub(since) >= monitor.clock.ticks(SUSPECT_AGE);
    if is_suspect {
        unattributed.suspect(since);
    }
    is_suspect
}

/// Returns whether a thread that was found blocked outside its runtime is still blocked there.
fn is_outside_runtime(
    state: &WorkerState,
    thread: Option<Tid>,
    inspector: &PollInspector,
    now: u64,
) -> bool {
    state.outside_runtime().is_some_and(|found| {
        let sample = thread.and_then(|thread| inspector.sample_thread(thread, now));
        sample.is_some_and(|sample| sample.observed() == found)
    })
}

/// Samples the thread of a worker that has made no progress, and decides whether unmeasured code
/// occupies the worker.
fn inspect(
    monitor: &MonitorState,
    inspector: &mut PollInspector,
    state: &mut WorkerState,
    worker: usize,
    thread: Option<Tid>,
    limits: WorkerLimits,
    now: u64,
) {
    let unattributed = &monitor.unattributed[worker];
    let sampled = thread.and_then(|tid| inspector.sample_thread(tid, now));
    let sample = sampled.as_ref().map(SampledThread::to_worker_sample);
    match state.next(sample, unattributed.start().is_some(), limits, now) {
        Transition::Wait | Transition::StillOccupied => {}
        Transition::Occupied { since, first_sample } => {
            unattributed.begin(since);
            if let Some(sample) = first_sample {
                unattributed.observations.record(since, &sample, None);
            }
        }
        Transition::Free => unattributed.end(monitor, worker, now),
    }
    if let Some(stall) = StallInProgress::unattributed(worker, unattributed, now) {
        let is_beyond_doubt = state.is_beyond_doubt(limits, now);
        if is_beyond_doubt {
            unattributed.confirm();
        }
        inspector.observe(&stall, sampled, is_beyond_doubt);
    }
}

// === impl WorkerScan ===

impl WorkerScan {
    fn new(monitor: &MonitorState, worker: usize, counters: [u64; 2]) -> Self {
        let threads = &monitor.worker_threads;
        let thread = threads.thread(worker);
        let may_be_worker = |shard: &&Shard| match thread {
            Some(thread) => shard.tid() == Some(thread),
            None => {
                let is_other = shard.tid().is_some_and(|thread| !threads.is_unknown(thread));
                !is_other
            }
        };
        let shards = monitor.shards.leased().map(|shard| &**shard).filter(may_be_worker);
        let polls = shards.clone().map(|shard| shard.current_poll.activity());
        let polls = polls.fold(0, u64::wrapping_add);
        let is_measured = shards.into_iter().any(|shard| {
            let poll = shard.current_poll.read();
            poll.is_some_and(|poll| !shard.observations.has_moved(poll.start))
        });
        let own_polls = threads.own_polls(worker);
        Self { activity: WorkerActivity { counters, polls, own_polls }, is_measured, thread }
    }
}
