//! The state of one monitor that its layers and its threads share.

mod attribution_queue;
mod blocking_pool_wait;
mod collapsed_stacks;
mod counters_by_route;
mod delay_totals;
mod flag;
mod history;
mod message;
mod queue;
mod request_activity;
mod requests;
mod scan_progress;
mod shards;
mod stack_samples;
mod stall_in_progress;
mod thread_permit;
mod token_bucket;
mod watchdog_delays;
mod worker_counters;
mod worker_index;
mod worker_load;
mod worker_threads;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

pub(crate) use self::attribution_queue::{AttributionQueue, Delay, Lane, LongPoll};
pub(crate) use self::blocking_pool_wait::BlockingPoolWait;
pub(crate) use self::delay_totals::{DelayTotals, DelayedBy, RouteDelays};
pub(crate) use self::history::History;
pub(crate) use self::message::{EndedStall, InProgressReport, Notice, StallMessage};
pub(crate) use self::request_activity::RequestActivity;
pub(crate) use self::stack_samples::{StackSample, weighted};
pub(crate) use self::stall_in_progress::{StallInProgress, UnattributedPoll};
pub(crate) use self::thread_permit::ThreadPermit;
pub(crate) use self::token_bucket::TokenBucket;
pub(crate) use self::watchdog_delays::{DelayKind, WatchdogDelays};
pub(crate) use self::worker_counters::{is_parked, worker_counters};
pub(crate) use self::worker_index::AllCounters;
pub(crate) use self::worker_threads::{TOKIO_THREAD_NAME, WorkerThreads};

use self::counters_by_route::CountersByRoute;
use self::flag::Flag;
use self::queue::ReportQueue;
use self::requests::Requests;
use self::scan_progress::ScanProgress;
use self::shards::Shards;
use self::worker_load::WorkerLoad;
use crate::os::Clock;
use crate::routes::{RouteId, RouteLabelFn, Routes};
use crate::shard::{
    BucketBounds, Lateness, Notifier, PollContext, PollId, PollInfo, PollObservations, RouteTotals,
    Shard, Thresholds,
};
use crate::stacks::{CaptureFailure, CapturePool, ThreadRole};
use crate::sync::AtomicBool;
use crate::text::clean;

pub(crate) struct MonitorState {
    pub(crate) clock: Clock,
    pub(crate) bounds: BucketBounds,
    pub(crate) routes: Routes,
    pub(crate) route_label: Option<RouteLabelFn>,
    pub(crate) route_label_first: bool,
    pub(crate) shards: Shards,
    pub(crate) counters: CountersByRoute,
    pub(crate) runtime: Handle,
    pub(crate) runtime_name: Arc<str>,
    /// Whether the runtime has ended: its workers' counters mean nothing any more.
    pub(crate) runtime_ended: Flag,
    /// Whether a task of the monitor observes a batch.
    pub(crate) is_observing_batch: AtomicBool,
    pub(crate) thresholds: Arc<Thresholds>,
    pub(crate) notifier: Arc<Notifier>,
    pub(crate) lateness: Arc<Lateness>,
    /// Whether there is a stream or a listener that measures socket waits.
    pub(crate) reads_sockets: Flag,
    /// Whether the start of a request is more than to look up its matched path: one flag for the
    /// options that are rarely used.
    pub(crate) has_request_options: Flag,
    pub(crate) queue: ReportQueue,
    pub(crate) attribution: AttributionQueue,
    pub(crate) history: History,
    pub(crate) requests: Requests,
    pub(crate) capture_pool: CapturePool,
    pub(crate) delays: WatchdogDelays,
    /// The unmeasured poll that occupies each worker.
    pub(crate) unattributed: Box<[UnattributedPoll]>,
    pub(crate) worker_threads: WorkerThreads,
    pub(crate) worker_load: WorkerLoad,
    pub(crate) blocking_pool_wait: Arc<BlockingPoolWait>,
    pub(crate) blocking_pool_permit: Arc<ThreadPermit>,
    /// Why no stacks are captured, if none are.
    pub(crate) stacks_missing: Option<&'static str>,
    /// Whether the builder requests stacks and the build includes them.
    pub(crate) stacks_requested: bool,
    pub(crate) stack_signals: bool,
    /// The most memory that the debug information may need, in bytes.
    pub(crate) symbol_memory: u64,
    pub(crate) scanned_until: ScanProgress,
}

/// The builder's options that outlive the builder.
pub(crate) struct Options {
    pub(crate) runtime_name: String,
    pub(crate) max_routes: usize,
    pub(crate) route_label: Option<RouteLabelFn>,
    pub(crate) route_label_first: bool,
    pub(crate) stacks: bool,
    pub(crate) stack_signals: bool,
    pub(crate) symbol_memory: u64,
}

impl MonitorState {
    pub(crate) fn new(clock: Clock, runtime: Handle, options: Options) -> Self {
        let routes = Routes::new(options.max_routes);
        let context = PollContext::new(clock);
        let metrics = runtime.metrics();
        let workers = metrics.num_workers();
        let stacks_missing = options.stacks_missing();
        Self {
            clock: context.clock.clone(),
            bounds: context.bounds.clone(),
            thresholds: Arc::clone(&context.thresholds),
            notifier: Arc::clone(&context.notifier),
            attribution: AttributionQueue::default(),
            lateness: Arc::clone(&context.lateness),
            reads_sockets: Flag::default(),
            has_request_options: Flag::new(options.route_label_first),
            shards: Shards::new(context),
            counters: CountersByRoute::new(routes.len()),
            routes,
            runtime,
            queue: ReportQueue::default(),
            history: History::default(),
            requests: Requests::default(),
            capture_pool: CapturePool::new(stacks_missing.is_none(), workers),
            delays: WatchdogDelays::default(),
            unattributed: (0..workers).map(|_| UnattributedPoll::default()).collect(),
            worker_threads: WorkerThreads::new(workers),
            worker_load: WorkerLoad::new(metrics),
            blocking_pool_wait: Arc::default(),
            blocking_pool_permit: Arc::default(),
            stacks_missing,
            stacks_requested: options.stacks && cfg!(feature = "stacks"),
            stack_signals: options.stack_signals,
            symbol_memory: options.symbol_memory,
            runtime_name: clean(options.runtime_name).into(),
            runtime_ended: Flag::default(),
            is_observing_batch: AtomicBool::new(false),
            route_label: options.route_label,
            route_label_first: options.route_label_first,
            scanned_until: ScanProgress::new(),
        }
    }

    /// Returns the stall threshold in ticks.
    #[inline]
    pub(crate) fn threshold(&self) -> u64 {
        self.thresholds.stall()
    }

    pub(crate) fn set_threshold(&self, threshold: Duration) {
        self.thresholds.set_stall(self.clock.ticks(threshold).max(1), self.bounds.first());
    }

    /// Measures socket waits from now on.
    pub(crate) fn read_sockets(&self) {
        self.reads_sockets.set();
        self.has_request_options.set();
    }

    /// Asks the reporter and the symbolizer's thread to process what is queued, and to end.
    pub(crate) fn close_queue(&self) {
        self.queue.close();
        self.capture_pool.wake_symbolizer();
    }

    /// Returns the totals of a route.
    pub(crate) fn totals(&self, route: RouteId) -> RouteTotals {
        self.totals_of(&[route])
    }

    /// Returns the totals of several routes together.
    pub(crate) fn totals_of(&self, routes: &[RouteId]) -> RouteTotals {
        let mut totals = RouteTotals::default();
        routes.iter().for_each(|&route| self.counters.add_totals(route, &mut totals));
        totals
    }

    /// Returns the number of requests in flight, without one of `route` that has stalled.
    pub(crate) fn other_requests_in_flight(&self, route: RouteId) -> usize {
        let own = usize::from(!self.routes.is_task(route));
        self.shards.requests_in_flight().saturating_sub(own)
    }

    /// Returns the age of the last poll of the request in flight that has waited longest, for each
    /// route that has a request that was last polled more than a second ago. Without instrumented
    /// tasks, many of which are idle by nature.
    ///
    /// Takes time proportional to the number of requests in flight.
    pub(crate) fn oldest_requests(&self) -> HashMap<RouteId, Duration> {
        const MIN_AGE: Duration = Duration::from_secs(1);
        let mut ages = self.requests.longest_unpolled(self.clock.now(), self.clock.ticks(MIN_AGE));
        ages.retain(|&route, _| !self.routes.is_task(route));
        ages.into_iter().map(|(route, age)| (route, self.clock.duration(age))).collect()
    }

    // === polls in progress ===

    /// Returns the measured polls in progress, with their shard and their age in ticks.
    pub(crate) fn polls_in_progress(&self) -> impl Iterator<Item = (&Shard, PollInfo, u64)> {
        self.shards.leased().filter_map(|shard| {
            let poll = shard.current_poll.read()?;
            Some((&**shard, poll, self.clock.now().saturating_sub(poll.start)))
        })
    }

    /// Returns the stalls in progress, measured or not.
    pub(crate) fn stalls_in_progress(&self) -> impl Iterator<Item = StallInProgress<'_>> {
        let (threshold, now) = (self.threshold(), self.clock.now());
        let polls = self
            .polls_in_progress()
            .map(|(shard, poll, age)| StallInProgress::measured(shard, poll, age));
        let unattributed = self
            .unattributed
            .iter()
            .enumerate()
            .filter(|(_, poll)| poll.is_confirmed())
            .filter_map(move |(worker, poll)| StallInProgress::unattributed(worker, poll, now));
        polls
            .filter(move |stall| stall.age > threshold)
            .chain(unattributed)
            .filter(|stall| !stall.observations.is_handed_off(stall.poll.start))
    }

    /// Ends the stalls of unmeasured code.
    pub(crate) fn end_unattributed(&self, now: u64) {
        for (worker, poll) in self.unattributed.iter().enumerate() {
            poll.end(self, worker, now);
        }
    }

    /// Returns whether a poll is still running.
    pub(crate) fn is_running(&self, id: PollId) -> bool {
        let is_current = |shard: &Shard| {
            shard.current_poll.read().is_some_and(|poll| shard.poll_id(poll.start) == id)
        };
        let mut unattributed = self
            .unattributed
            .iter()
            .enumerate()
            .filter_map(|(worker, poll)| Some(UnattributedPoll::id(worker, poll.start()?)));
        self.shards.leased().any(|shard| is_current(shard)) || unattributed.any(|other| other == id)
    }

    /// Records that a stack of a poll shows that its thread does not stall a worker.
    pub(crate) fn set_off_worker(&self, id: PollId, role: ThreadRole) {
        let measured = self.shards.leased().filter(|shard| shard.poll_id(id.start) == id);
        measured.for_each(|shard| shard.observations.set_handed_off(id.start));
        if role == ThreadRole::OffWorker {
            self.set_not_the_worker(id);
        }
    }

    /// Records that the thread of an unmeasured poll is not the worker that it was taken for.
    fn set_not_the_worker(&self, id: PollId) {
        let unattributed = self.unattributed.iter().enumerate();
        for (worker, poll) in unattributed {
            if UnattributedPoll::id(worker, id.start) == id {
                poll.observations.set_handed_off(id.start);
                // The thread that drives this one runs nothing else that could be a worker.
                let is_current_thread =
                    self.runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
                let thread = self.worker_threads.thread(worker).filter(|_| !is_current_thread);
                if let Some(thread) = thread {
                    self.worker_threads.forget(worker, thread);
                }
            }
        }
    }

    /// Records why an attempt to capture a stack of a poll has failed.
    pub(crate) fn set_capture_failure(&self, id: PollId, failure: CaptureFailure) {
        self.observations(id)
            .for_each(|observations| observations.set_capture_failure(id.start, failure));
    }

    /// Returns why the last attempt to capture a stack of a poll has failed.
    pub(crate) fn capture_failure(&self, id: PollId) -> Option<CaptureFailure> {
        self.observations(id).find_map(|observations| observations.capture_failure(id.start))
    }

    /// Returns what has been observed of the thread or the worker of a poll, which may have ended.
    fn observations(&self, id: PollId) -> impl Iterator<Item = &PollObservations> {
        let measured = self
            .shards
            .all()
            .filter(move |shard| shard.poll_id(id.start) == id)
            .map(|shard| &shard.observations);
        let unattributed = self
            .unattributed
            .iter()
            .enumerate()
            .filter(move |(worker, _)| UnattributedPoll::id(*worker, id.start) == id)
            .map(|(_, poll)| &poll.observations);
        measured.chain(unattributed)
    }
}

impl Options {
    fn stacks_missing(&self) -> Option<&'static str> {
        if self.stacks {
            crate::stacks::unsupported(self.stack_signals)
        } else {
            Some("no stack: stacks are disabled")
        }
    }
}

impl fmt::Debug for MonitorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MonitorState").field("runtime", &self.runtime_name).finish_non_exhaustive()
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
pub(crate) mod tests {
    use tokio::runtime::Runtime;

    use super::*;

    /// Creates the state of a monitor on a runtime that does not run.
    pub(crate) fn state(clock: Clock) -> Arc<MonitorState> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        new_state(clock, &runtime)
    }

    /// Creates the state of a monitor on a runtime.
    pub(crate) fn state_of(runtime: &Runtime) -> Arc<MonitorState> {
        new_state(Clock::new(), runtime)
    }

    pub(crate) fn new_state(clock: Clock, runtime: &Runtime) -> Arc<MonitorState> {
        let options = Options {
            runtime_name: "test".into(),
            max_routes: 8,
            route_label: None,
            route_label_first: false,
            stacks: false,
            stack_signals: false,
            symbol_memory: u64::MAX,
        };
        Arc::new(MonitorState::new(clock, runtime.handle().clone(), options))
    }

    #[test]
    fn the_reason_for_no_stack_is_found_after_the_thread_has_ended() {
        let monitor = state(Clock::new());
        let shard = monitor.shards.lease();
        let id = shard.poll_id(7);
        monitor.shards.release(&shard);
        monitor.set_capture_failure(id, CaptureFailure::TooLarge);
        assert_eq!(monitor.capture_failure(id), Some(CaptureFailure::TooLarge));
    }
}
