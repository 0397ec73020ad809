//! The inspection of a poll that may become a stall: samples its thread, captures its stack, and
//! sends a report that is due.

use std::sync::Arc;

use tokio::runtime::RuntimeMetrics;

use super::timing::{FIRST_REPORT_AGE, MAX_CAPTURE_INTERVAL, MAX_PERIOD, SUSPECT_AGE};
use super::worker_state::{WorkerSample, batch};
use crate::os::{self, SchedStat, ThreadState, Tid};
use crate::routes::Routes;
use crate::shard::{PollInfo, Shard, ThreadSample};
use crate::stacks::{CaptureFailure, CaptureRequest, StackSampler, TargetThread};
use crate::state::{MonitorState, StallInProgress, worker_counters};

pub(super) struct PollInspector {
    monitor: Arc<MonitorState>,
    sampler: StackSampler,
    metrics: RuntimeMetrics,
    /// Whether there are stacks that the reporter has not been notified of.
    has_captures: bool,
}

/// A thread as it was sampled a moment ago.
pub(super) struct SampledThread {
    target: TargetThread,
    sample: ThreadSample,
}

// === impl PollInspector ===

impl PollInspector {
    pub(super) fn new(monitor: Arc<MonitorState>, sampler: StackSampler) -> Self {
        let metrics = monitor.runtime.metrics();
        Self { monitor, sampler, metrics, has_captures: false }
    }

    /// Inspects a measured poll once it is so old that, if it ends just over the threshold, it has
    /// a cause and a line.
    pub(super) fn inspect(&mut self, shard: &Shard, poll: PollInfo, age: u64) {
        if age < self.suspect_age() {
            return;
        }
        let stall = StallInProgress::measured(shard, poll, age);
        let thread = shard.tid().and_then(|tid| self.sample_thread(tid, poll.start + age));
        // If the poll has ended meanwhile, the sample is not of this poll.
        if shard.current_poll.read() == Some(poll) {
            self.observe(&stall, thread, true);
            self.follow_hand_off(shard, &stall);
        }
    }

    /// Records whether a worker that a measured poll gives up goes on without it.
    fn follow_hand_off(&self, shard: &Shard, stall: &StallInProgress<'_>) {
        let (observations, start) = (stall.observations, stall.poll.start);
        let (Some(worker), Some(thread)) = (stall.worker, shard.tid()) else { return };
        let threads = &self.monitor.worker_threads;
        if observations.has_moved(start) {
            threads.forget(worker, thread);
        } else if threads.thread(worker) == Some(thread)
            && stall.age > batch(self.monitor.threshold())
        {
            // Whether or not a stack shows that it gives up the worker: no thread has taken it over.
            observations.set_stranded(start, stall.age);
        }
    }

    /// Samples what a thread is doing now.
    pub(super) fn sample_thread(&self, tid: Tid, now: u64) -> Option<SampledThread> {
        let sched_stat = os::sched_stat(tid)?;
        let (state, cpu) = (os::thread_state(tid)?, os::cpu_time(tid)?);
        let blocked_in = state.blocked_in();
        let at = self.monitor.clock.duration(now);
        let run_delay = sched_stat.run_delay;
        let sample = ThreadSample { thread: tid, at, cpu, run_delay, blocked_in };
        Some(SampledThread { target: TargetThread { tid, state, sched_stat }, sample })
    }

    /// Records a sample of a poll in progress, captures its stack and sends a report, if they are
    /// due. A poll that is not beyond doubt is not reported yet.
    pub(super) fn observe(
        &mut self,
        stall: &StallInProgress<'_>,
        thread: Option<SampledThread>,
        is_beyond_doubt: bool,
    ) {
        let (observations, start) = (stall.observations, stall.poll.start);
        observations.begin(start, self.monitor.clock.ticks(FIRST_REPORT_AGE));
        let is_report_due = is_beyond_doubt
            && stall.age > self.monitor.threshold()
            && observations.take_report(stall.age);
        if let Some(thread) = thread {
            let counters = self.counters(stall, &thread);
            observations.record(start, &thread.sample, counters);
            if self.is_taken_over(stall, thread.target.tid) {
                observations.set_moved(start);
            }
            self.capture_if_due(stall, &thread.target, is_report_due);
        } else {
            self.note_refusal(stall);
        }
        if is_report_due && !observations.is_handed_off(start) {
            self.monitor.queue.push_in_progress(stall.to_report(&self.monitor));
        }
    }

    /// Returns the counters of the worker that a measured poll runs on, if its thread is known to
    /// be that worker, or to have been before it handed the worker off.
    fn counters(&self, stall: &StallInProgress<'_>, thread: &SampledThread) -> Option<[u64; 2]> {
        if stall.poll.route == Routes::UNATTRIBUTED {
            return None;
        }
        let worker = stall.worker?;
        let is_known = self.monitor.worker_threads.thread(worker) == Some(thread.target.tid);
        is_known.then(|| worker_counters(&self.metrics, worker)).flatten()
    }

    /// Returns whether another thread has been seen as the worker that a measured poll runs on.
    fn is_taken_over(&self, stall: &StallInProgress<'_>, thread: Tid) -> bool {
        let is_measured = stall.poll.route != Routes::UNATTRIBUTED;
        let threads = &self.monitor.worker_threads;
        let is_other = |worker| threads.is_taken_over(worker, thread, stall.poll.start);
        is_measured && stall.worker.is_some_and(is_other)
    }

    fn capture_if_due(
        &mut self,
        stall: &StallInProgress<'_>,
        target: &TargetThread,
        is_report_due: bool,
    ) {
        let (monitor, observations, age) = (&self.monitor, stall.observations, stall.age);
        let is_blocked = target.state.is_blocked();
        let is_due =
            age >= self.first_capture_age() && observations.is_capture_due(age, is_blocked);
        if !(is_report_due || is_due) {
            return;
        }
        let interval = age.min(monitor.clock.ticks(MAX_CAPTURE_INTERVAL));
        if monitor.stacks_missing.is_some() {
            if monitor.stacks_requested {
                monitor.capture_pool.count(Err(CaptureFailure::Unsupported));
            }
            observations.set_next_capture(is_blocked, age + interval);
            return;
        }
        let request = CaptureRequest { id: stall.id, age, stack_mark: stall.poll.stack_mark };
        let result = self
            .sampler
            .capture(&monitor.capture_pool, request, target, |id| monitor.is_running(id));
        if let Some(Err(failure)) = result {
            observations.set_capture_failure(stall.poll.start, failure);
        }
        let is_captured = result == Some(Ok(()));
        self.has_captures |= is_captured;
        // A torn stack, or a signal without a response, is tried again at the next scan.
        if is_captured || !(is_blocked || monitor.stack_signals) {
            observations.set_next_capture(is_blocked, age + interval);
        }
    }

    /// Collects the stack that a signal has delivered since the last scan.
    pub(super) fn collect(&mut self) {
        let monitor = &self.monitor;
        match self.sampler.collect(&monitor.capture_pool, |id| monitor.is_running(id)) {
            Some((_, Ok(()))) => self.has_captures = true,
            Some((id, Err(failure))) => monitor.set_capture_failure(id, failure),
            None => {}
        }
    }

    /// Notes why a thread could not be sampled, once for each stack that is due.
    fn note_refusal(&self, stall: &StallInProgress<'_>) {
        let (monitor, observations, age) = (&self.monitor, stall.observations, stall.age);
        let is_due = age >= self.first_capture_age() && observations.is_capture_due(age, true);
        if is_due && monitor.stacks_missing.is_none() {
            let failure = if self.is_thread_known(stall) {
                self.sampler.refusal()
            } else {
                CaptureFailure::NoThread
            };
            monitor.capture_pool.count(Err(failure));
            observations.set_capture_failure(stall.poll.start, failure);
            let interval = age.min(monitor.clock.ticks(MAX_CAPTURE_INTERVAL));
            observations.set_next_capture(true, age + interval);
        }
    }

    /// Returns whether the thread of a poll is known, which that of an unmeasured one may not be.
    fn is_thread_known(&self, stall: &StallInProgress<'_>) -> bool {
        let has_thread = |worker| self.monitor.worker_threads.thread(worker).is_some();
        stall.poll.route != Routes::UNATTRIBUTED || stall.worker.is_some_and(has_thread)
    }

    /// Returns whether stacks were captured since the last call.
    pub(super) fn take_captured(&mut self) -> bool {
        std::mem::take(&mut self.has_captures)
    }

    /// Returns the age at which inspection of a poll begins, in ticks.
    pub(super) fn suspect_age(&self) -> u64 {
        self.monitor.clock.ticks(SUSPECT_AGE).min(self.monitor.threshold() / 2)
    }

    /// Returns the age at which the stack of a poll is first captured, in ticks: at the last scan
    /// before the threshold.
    fn first_capture_age(&self) -> u64 {
        let threshold = self.monitor.threshold();
        threshold.saturating_sub(self.monitor.clock.ticks(MAX_PERIOD)).max(threshold / 2)
    }
}

// === impl SampledThread ===

impl SampledThread {
    /// Returns what the thread does, which does not change while it is blocked in one system call.
    pub(super) fn observed(&self) -> (ThreadState, SchedStat) {
        (self.target.state, self.target.sched_stat)
    }

    pub(super) fn to_worker_sample(&self) -> WorkerSample {
        WorkerSample { observed: self.observed(), sample: self.sample }
    }
}
