//! The reporter's thread. It may be slow: no polling thread waits for it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cpu_quota::CpuQuota;
use super::rate_limiter::RateLimiter;
use super::stall_builder::{StallBuilder, is_handed_off, stalled_before_hand_off};
use crate::export::Exporter;
use crate::routes::Routes;
use crate::stacks::{Capture, CaptureResult, Symbolizer};
use crate::stall::{Cause, Stall};
use crate::state::{EndedStall, InProgressReport, MonitorState, Notice, StackSample, StallMessage};
use crate::trace::{Parent, Tracing};

/// A user's function that is called with each stall.
pub(crate) type Hook = Box<dyn Fn(&Stall) + Send + Sync>;

/// How long an ended stall waits for the scan after its end, which takes a few milliseconds.
const SCAN_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the reporter checks for that scan.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

pub(crate) struct Reporter {
    monitor: Arc<MonitorState>,
    exporter: Exporter,
    hook: Option<Hook>,
    tracing: Tracing,
    rate_limiter: RateLimiter,
    symbolizer: Symbolizer,
    cpu_quota: CpuQuota,
    /// Ended stalls of which the watchdog may still deliver a stack, with the time of arrival.
    waiting: VecDeque<(Instant, EndedStall)>,
    /// The notices that have not been logged.
    pending_notices: Vec<Notice>,
    started_at: Instant,
}

impl Reporter {
    pub(crate) fn new(
        monitor: Arc<MonitorState>,
        exporter: Exporter,
        hook: Option<Hook>,
        reports_per_minute: u32,
    ) -> Self {
        Self {
            monitor,
            exporter,
            hook,
            tracing: Tracing::current(),
            rate_limiter: RateLimiter::new(reports_per_minute),
            symbolizer: Symbolizer::new(),
            cpu_quota: CpuQuota::new(),
            waiting: VecDeque::new(),
            pending_notices: Notice::ALL.into(),
            started_at: Instant::now(),
        }
    }

    /// Runs until the queue is closed. A subscriber or a recorder that panics loses the current
    /// events, and nothing else.
    pub(crate) fn run(mut self) {
        loop {
            // Read before the work, so that everything queued before the closing is processed.
            let is_closed = self.monitor.queue.is_closed();
            self.contain(|reporter| reporter.run_once(is_closed));
            self.contain(Self::log_notices);
            if is_closed {
                self.contain(Self::close_exporter);
                return;
            }
            if self.waiting.is_empty() {
                std::thread::park();
            } else {
                std::thread::park_timeout(POLL_INTERVAL);
            }
        }
    }

    fn run_once(&mut self, is_closed: bool) {
        self.cpu_quota.update();
        // First: the gauges of stalls in progress do not wait for symbolization, which takes long
        // the first time.
        if self.monitor.queue.take_flush() {
            self.exporter.flush(&self.monitor);
        }
        self.drain(is_closed);
    }

    fn close_exporter(&mut self) {
        self.exporter.flush(&self.monitor);
        self.exporter.close();
    }

    /// Runs a step. A panic in it ends this step only, and is counted.
    fn contain(&mut self, step: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| step(self))).is_err() {
            self.monitor.queue.count_dropped();
        }
    }

    /// Logs each requested notice once.
    fn log_notices(&mut self) {
        let Self { monitor, tracing, pending_notices, .. } = self;
        let queue = &monitor.queue;
        while let Some(i) = pending_notices.iter().position(|notice| queue.has_notice(*notice)) {
            match pending_notices.swap_remove(i) {
                Notice::OtherAxum => tracing.other_axum(),
                Notice::NoIoDriver => tracing.no_io_driver(),
                Notice::NoStacks => tracing.stacks_missing(monitor.stacks_missing.unwrap_or("")),
            }
        }
    }

    fn drain(&mut self, is_closed: bool) {
        let monitor = Arc::clone(&self.monitor);
        while let Some(ended) = monitor.queue.pop_ended() {
            self.waiting.push_back((Instant::now(), ended));
        }
        // Read after the ended stalls: of a stall that was scanned since, all stacks are there.
        let scanned_until = if is_closed { u64::MAX } else { monitor.scanned_until.get() };
        let mut is_gauge_outdated = false;
        while let Some(capture) = monitor.capture_pool.next() {
            is_gauge_outdated |= self.symbolize(capture);
        }
        while let Some(report) = monitor.queue.pop_in_progress() {
            self.report_in_progress(&report);
        }
        while let Some(ended) = self.next_scanned(scanned_until) {
            self.report_ended(ended);
            is_gauge_outdated = true;
        }
        if is_gauge_outdated {
            self.exporter.flush(&monitor);
        }
    }

    /// Returns the next ended stall, once the watchdog has scanned everything after its end.
    fn next_scanned(&mut self, scanned_until: u64) -> Option<EndedStall> {
        let (arrived, ended) = self.waiting.front()?;
        let is_ready = ended.end < scanned_until || arrived.elapsed() >= SCAN_TIMEOUT;
        is_ready.then(|| self.waiting.pop_front()).flatten().map(|(_, ended)| ended)
    }

    /// Symbolizes a captured stack. Returns whether it shows that the poll has handed off its
    /// worker.
    fn symbolize(&mut self, capture: Capture) -> bool {
        let monitor = Arc::clone(&self.monitor);
        let request = capture.request;
        let symbolized = self.symbolizer.symbolize(&capture);
        let is_torn = symbolized.is_none();
        monitor.capture_pool.count(if is_torn {
            CaptureResult::Torn
        } else {
            CaptureResult::Captured
        });
        let handed_off = symbolized.is_some_and(|stack| {
            let sample = StackSample {
                age: request.age + monitor.clock.ticks(capture.delay),
                blocked_in: capture.blocked_in,
                role: stack.role,
                lacks_lines: stack.lacks_lines,
                fd_target: capture.fd_target.map(|target| target.as_str().into()),
                frames: stack.frames.into(),
            };
            monitor.history.lock().samples.push(request.id, sample);
            stack.role.is_off_worker()
        });
        if handed_off {
            monitor.set_handed_off(request.id);
        }
        monitor.capture_pool.recycle(capture.stack);
        handed_off
    }

    fn report_in_progress(&mut self, InProgressReport { stall }: &InProgressReport) {
        let samples = self.monitor.history.lock().samples.get(stall.id).to_vec();
        if is_handed_off(stall.breakdown.as_ref(), &samples) {
            return;
        }
        let throttled = self.cpu_quota.recent();
        let builder = StallBuilder::in_progress(&self.monitor, stall, &samples, throttled);
        if let Some(report) = builder.build() {
            self.report(&report, &Parent::Id(stall.poll.span));
        }
    }

    fn report_ended(&mut self, ended: EndedStall) {
        let EndedStall { mut stall, end, span } = ended;
        let mut stall_end = end;
        let mut samples = self.monitor.history.lock().samples.take(stall.id);
        // A thread may have responded to a signal late, when the poll had ended.
        let duration = end.saturating_sub(stall.poll.start);
        samples.retain(|sample| sample.age <= duration);
        let route = stall.poll.route;
        if is_handed_off(stall.breakdown.as_ref(), &samples) {
            if route != Routes::UNATTRIBUTED {
                *self.monitor.history.lock().handed_off.entry(route).or_default() += 1;
            }
            // It is a stall only up to the hand-off.
            stall.ticks = stalled_before_hand_off(&samples, stall.ticks);
            if stall.ticks <= stall.threshold {
                return;
            }
            stall_end = stall.poll.start + stall.ticks;
            samples.retain(|sample| sample.age <= stall.ticks);
        }
        let builder = StallBuilder {
            monitor: &self.monitor,
            stall: &stall,
            end,
            stall_end,
            in_progress: false,
            samples: &samples,
            throttled: self.cpu_quota.recent(),
        };
        let Some(report) = builder.build() else { return };
        self.account(&stall, &report, &samples);
        self.report(&report, &Parent::Open(span));
    }

    /// Adds an ended stall to the results that the metrics, `routes` and `recent_stalls` are made
    /// of.
    fn account(&self, stall: &StallMessage, report: &Stall, samples: &[StackSample]) {
        let (monitor, route) = (&self.monitor, stall.poll.route);
        let mut history = monitor.history.lock();
        let by_cause = history.stalls.entry(route).or_default();
        by_cause.entry(report.cause).or_default().add(&monitor.bounds, stall.ticks);
        history.splits.entry(route).or_default().add(&report.split);
        let (method, name) = (report.method, &report.route);
        history.collapsed.add_all(method, name, samples, stall.ticks, &monitor.clock);
        history.push(report.clone());
    }

    /// Writes the event, unless it is suppressed, and calls the hook.
    fn report(&mut self, stall: &Stall, parent: &Parent) {
        if stall.cause != Cause::Paused {
            match self.rate_limiter.acquire(stall, self.started_at.elapsed()) {
                Some(suppressed) => self.tracing.report(stall, parent, suppressed),
                None => self.monitor.history.lock().suppressed += 1,
            }
        }
        let Some(hook) = &self.hook else { return };
        if catch_unwind(AssertUnwindSafe(|| hook(stall))).is_err() {
            self.monitor.history.lock().hook_panics += 1;
        }
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::os::Clock;
    use crate::routes::{MethodLabel, RouteId};
    use crate::shard::{HistogramSnapshot, PollId, PollInfo, TimeBreakdown};
    use crate::stacks::ThreadRole;
    use crate::stall::Phase;
    use crate::state::DelayKind;
    use crate::state::tests::state;
    use crate::trace::SpanRef;

    const MILLI: u64 = 1_000_000;
    const ID: PollId = PollId { shard: 1 << 40, start: 1_000 * MILLI };

    /// A reporter that runs on no thread.
    struct Driven {
        monitor: Arc<MonitorState>,
        reporter: Reporter,
        route: RouteId,
        hooked: Arc<Mutex<Vec<Stall>>>,
    }

    impl Driven {
        fn new() -> Self {
            let monitor = state(Clock::Manual(Arc::new(AtomicU64::new(2_000 * MILLI))));
            let hooked = Arc::<Mutex<Vec<Stall>>>::default();
            let hook: Hook = {
                let hooked = Arc::clone(&hooked);
                Box::new(move |stall| hooked.lock().unwrap().push(stall.clone()))
            };
            let exporter = Exporter::new(&monitor, Arc::default(), Arc::default());
            let reporter = Reporter::new(Arc::clone(&monitor), exporter, Some(hook), 10);
            let route = monitor.routes.id(MethodLabel::HEAD, Some("/a"));
            Self { monitor, reporter, route, hooked }
        }

        /// Sends a stall of 100 ms that has ended, and that was on-CPU.
        fn end(&self, breakdown: Option<TimeBreakdown>) {
            let poll = PollInfo {
                route: self.route,
                phase: Phase::Handler,
                start: ID.start,
                span: 0,
                stack_mark: 0,
            };
            let stall = StallMessage {
                id: ID,
                poll,
                ticks: 100 * MILLI,
                threshold: 25 * MILLI,
                worker: Some(0),
                in_flight: 0,
                io_starved: false,
                rescued: false,
                breakdown,
            };
            let end = ID.start + 100 * MILLI;
            let ended = EndedStall { stall, end, span: SpanRef::none() };
            assert!(self.monitor.queue.push_ended(ended));
            self.monitor.scanned_until.set(end + 1);
        }

        fn sample(&self, age: u64, handed_off: bool) {
            let sample = StackSample {
                age: age * MILLI,
                blocked_in: None,
                role: if handed_off { ThreadRole::HandedOff } else { ThreadRole::Worker },
                lacks_lines: false,
                fd_target: None,
                frames: [].into(),
            };
            self.monitor.history.lock().samples.push(ID, sample);
        }

        fn durations(&mut self) -> Vec<Duration> {
            self.reporter.run_once(false);
            self.hooked.lock().unwrap().drain(..).map(|stall| stall.duration()).collect()
        }

        fn handed_off(&self) -> u64 {
            self.monitor.history.lock().handed_off.get(&self.route).copied().unwrap_or_default()
        }
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_split_of_all_stalls_adds_up_to_their_duration() {
        let mut driven = Driven::new();
        let end = ID.start + 100 * MILLI;
        driven.monitor.delays.record(DelayKind::Stopped, end - 10 * MILLI, end);
        let (wall, cpu, run_delay) = (millis(80), millis(20), millis(10));
        let sampled = TimeBreakdown { wall, cpu, run_delay, ..TimeBreakdown::default() };
        driven.end(None);
        driven.end(Some(sampled));
        assert_eq!(driven.durations(), [millis(100), millis(100)]);
        driven.sample(60, false);
        driven.sample(80, true);
        driven.end(Some(sampled));
        assert_eq!(driven.durations(), [millis(60)], "it was handed off");
        let history = driven.monitor.history.lock();
        let split = history.split(driven.route);
        let durations = history.stalls[&driven.route].values();
        let total: u64 = durations.map(HistogramSnapshot::ticks).sum();
        assert_eq!(split.parts().iter().sum::<Duration>(), Duration::from_nanos(total));
        assert_eq!(split.stopped, millis(20), "{split:?}");
    }

    #[test]
    fn an_ended_stall_waits_for_the_scan_after_its_end() {
        let mut driven = Driven::new();
        driven.end(None);
        driven.monitor.scanned_until.set(ID.start + 100 * MILLI);
        assert_eq!(driven.durations(), []);
        driven.monitor.scanned_until.set(ID.start + 100 * MILLI + 1);
        assert_eq!(driven.durations(), [millis(100)]);
    }

    #[test]
    fn a_poll_handed_off_at_once_is_not_a_stall() {
        let mut driven = Driven::new();
        driven.sample(20, true);
        driven.end(None);
        assert_eq!(driven.durations(), []);
        assert_eq!(driven.handed_off(), 1);
    }

    #[test]
    fn a_poll_handed_off_late_is_a_stall_until_then() {
        let mut driven = Driven::new();
        for (age, handed_off) in [(20, false), (40, false), (80, true)] {
            driven.sample(age, handed_off);
        }
        driven.end(None);
        assert_eq!(driven.durations(), [millis(40)]);
        assert_eq!(driven.handed_off(), 1);
    }

    #[test]
    fn without_a_stack_the_counters_decide_the_hand_off() {
        let mut driven = Driven::new();
        driven.end(Some(TimeBreakdown { handed_off: true, ..TimeBreakdown::default() }));
        assert_eq!(driven.durations(), []);
        driven.end(Some(TimeBreakdown::default()));
        assert_eq!(driven.durations(), [millis(100)]);
        assert_eq!(driven.handed_off(), 1);
    }

    #[test]
    fn a_stack_that_was_captured_after_the_end_does_not_count() {
        let mut driven = Driven::new();
        driven.sample(101, true);
        driven.end(None);
        assert_eq!(driven.durations(), [millis(100)]);
        assert_eq!(driven.handed_off(), 0);
    }
}
