//! The reporter's thread: decides about each ended stall, counts it, and sends its report. It runs
//! no code of others, and waits for none: not for the recorder, the subscriber, the hook, nor for
//! debug information.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cpu_quota::CpuQuota;
use super::hand_off::{Verdict, judge};
use super::message::Message;
use super::outputs::Outputs;
use super::stall_builder::StallBuilder;
use crate::routes::Routes;
use crate::shard::PollId;
use crate::stall::Stall;
use crate::state::{EndedStall, InProgressReport, MonitorState, Notice, StackSample, StallMessage};
use crate::trace::{Parent, SpanRef};

/// How long an ended stall waits for the scan after its end, which takes a few milliseconds.
const SCAN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it then waits, before it is counted, for stacks that may show a hand-off.
const COUNT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a counted stall waits for its stacks before it is reported without.
const STACK_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it keeps the span of its request open meanwhile. Longer than the log may, because the
/// first stack of a program takes its time, and there are only as many such stalls as captures.
const MAX_SPAN_HOLD: Duration = Duration::from_secs(10);
/// How long stalls wait for their stacks at the end of the monitor.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(300);
/// How often the reporter checks for the scan, and for the stacks of a stall that is not counted.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// How often it checks what it sent or holds back.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// The number of messages of a kind that wait here; further ones stay in their queue.
const MAX_WAITING: usize = 1024;

pub(crate) struct Reporter {
    monitor: Arc<MonitorState>,
    outputs: Outputs,
    cpu_quota: CpuQuota,
    /// Stalls in progress that are not reported yet, with the time of arrival.
    in_progress: VecDeque<(Instant, InProgressReport)>,
    /// Ended stalls that are not counted yet, with the time of arrival.
    ended: VecDeque<(Instant, EndedStall)>,
    /// Ended stalls that are counted, but not reported yet. As few as there are captures.
    counted: Vec<CountedStall>,
    /// The notices that have not been sent.
    pending_notices: Vec<Notice>,
    /// The spans that are no longer needed.
    unneeded_spans: Vec<SpanRef>,
    /// When the queue was closed.
    closed_at: Option<Instant>,
}

/// An ended stall that is counted, and shown, but of which stacks are still to be symbolized.
struct CountedStall {
    arrived: Instant,
    stall: StallMessage,
    ends: Ends,
    parent: Parent,
    samples: Vec<StackSample>,
    report: Stall,
}

/// When a poll ended, and when its stall did: then, or when it handed off its worker. In ticks.
#[derive(Clone, Copy, Debug)]
struct Ends {
    poll: u64,
    stall: u64,
}

impl Reporter {
    pub(crate) fn new(monitor: Arc<MonitorState>, outputs: Outputs) -> Self {
        Self {
            monitor,
            outputs,
            cpu_quota: CpuQuota::new(),
            in_progress: VecDeque::new(),
            ended: VecDeque::new(),
            counted: Vec::new(),
            pending_notices: Notice::ALL.into(),
            unneeded_spans: Vec::new(),
            closed_at: None,
        }
    }

    /// Runs until the queue is closed, and lets the threads end that come after it.
    pub(crate) fn run(mut self) {
        loop {
            // Read before the work, so that everything queued before the closing is processed.
            let is_closed = self.monitor.queue.is_closed();
            // Nothing here should panic; if it does, it ends this step only.
            if catch_unwind(AssertUnwindSafe(|| self.run_once(Instant::now(), is_closed))).is_err()
            {
                self.monitor.queue.count_dropped();
            }
            if is_closed && !self.is_waiting() {
                break;
            }
            self.pause();
        }
        self.outputs.close();
        self.monitor.queue.finish();
    }

    fn pause(&self) {
        if !(self.ended.is_empty() && self.in_progress.is_empty()) {
            std::thread::park_timeout(POLL_INTERVAL);
        } else if !(self.counted.is_empty() && self.outputs.log.is_empty()) {
            std::thread::park_timeout(CHECK_INTERVAL);
        } else {
            std::thread::park();
        }
    }

    fn run_once(&mut self, now: Instant, is_closed: bool) {
        if is_closed {
            self.closed_at.get_or_insert(now);
        }
        self.cpu_quota.update();
        self.receive(now);
        self.send_notices();
        self.report_stacked(now);
        self.release_spans(now);
    }

    /// Takes what is queued, and reports and counts what is due.
    fn receive(&mut self, now: Instant) {
        let monitor = Arc::clone(&self.monitor);
        while self.ended.len() < MAX_WAITING {
            let Some(ended) = monitor.queue.pop_ended() else { break };
            self.ended.push_back((now, ended));
        }
        // Read after the ended stalls: of a stall that was scanned since, all stacks are captured.
        // Read before the reports of stalls in progress: of such a stall, all of them are queued.
        let scanned_until =
            if self.closed_at.is_some() { u64::MAX } else { monitor.scanned_until.get() };
        while self.in_progress.len() < MAX_WAITING {
            let Some(report) = monitor.queue.pop_in_progress() else { break };
            self.in_progress.push_back((now, report));
        }
        for (arrived, report) in std::mem::take(&mut self.in_progress) {
            if self.may_wait_for_stacks(report.stall.id, arrived, COUNT_TIMEOUT, now) {
                self.in_progress.push_back((arrived, report));
            } else {
                self.report_in_progress(&report, arrived);
            }
        }
        for (arrived, ended) in std::mem::take(&mut self.ended) {
            if self.is_countable(arrived, &ended, scanned_until, now) {
                self.count(ended, arrived, now);
                monitor.queue.request_flush();
            } else {
                self.ended.push_back((arrived, ended));
            }
        }
    }

    /// Returns whether the watchdog has scanned everything after the end of a stall, and the stacks
    /// that it has captured are symbolized.
    fn is_countable(
        &self,
        arrived: Instant,
        ended: &EndedStall,
        scanned_until: u64,
        now: Instant,
    ) -> bool {
        let is_scanned =
            ended.end < scanned_until || now.saturating_duration_since(arrived) >= SCAN_TIMEOUT;
        is_scanned && !self.may_wait_for_stacks(ended.stall.id, arrived, COUNT_TIMEOUT, now)
    }

    /// Returns whether stacks of a poll are still to be symbolized, and may be waited for.
    fn may_wait_for_stacks(
        &self,
        id: PollId,
        since: Instant,
        timeout: Duration,
        now: Instant,
    ) -> bool {
        let has_elapsed = |since, timeout| now.saturating_duration_since(since) >= timeout;
        let must_close = self.closed_at.is_some_and(|at| has_elapsed(at, CLOSE_TIMEOUT));
        let is_pending = self.monitor.capture_pool.is_pending(id);
        if is_pending {
            // It may not know, if the watchdog saw no stall in progress.
            self.monitor.capture_pool.wake_symbolizer();
        }
        is_pending && !must_close && !has_elapsed(since, timeout)
    }

    fn report_in_progress(&mut self, report: &InProgressReport, arrived: Instant) {
        let stall = &report.stall;
        // One that has ended is reported as ended.
        if !self.monitor.is_running(stall.id) {
            return;
        }
        let samples = self.monitor.history.lock().samples.get(stall.id).to_vec();
        if judge(stall, &samples) != Verdict::Stall {
            return;
        }
        let throttled = self.cpu_quota.recent();
        let builder = StallBuilder::in_progress(&self.monitor, stall, &samples, throttled);
        if let Some(report) = builder.build() {
            self.send(stall.id, report, Parent::Id(stall.poll.span), arrived);
        }
    }

    /// Decides whether an ended poll was a stall, counts it, and reports it unless stacks are still
    /// to be symbolized.
    fn count(&mut self, ended: EndedStall, arrived: Instant, now: Instant) {
        let EndedStall { mut stall, end, span } = ended;
        let mut stall_end = end;
        // Read before the samples: if no stack is pending, they are complete.
        let is_pending = self.monitor.capture_pool.is_pending(stall.id);
        let duration = end.saturating_sub(stall.poll.start);
        let mut samples = self.take_samples(&stall, duration);
        let route = stall.poll.route;
        if let Verdict::HandedOff { after } = judge(&stall, &samples) {
            if route != Routes::UNATTRIBUTED {
                *self.monitor.history.lock().handed_off.entry(route).or_default() += 1;
            }
            // It is a stall only up to the hand-off.
            stall.ticks = after;
            if stall.ticks <= stall.threshold {
                self.unneeded_spans.push(span);
                return;
            }
            stall_end = stall.poll.start + stall.ticks;
            samples.retain(|sample| sample.age <= stall.ticks);
        }
        let ends = Ends { poll: end, stall: stall_end };
        let Some(report) = self.build(&stall, ends, &samples) else {
            self.unneeded_spans.push(span);
            return;
        };
        self.account(&stall, ends, &report);
        let parent = Parent::Open(span);
        let counted = CountedStall { arrived, stall, ends, parent, samples, report };
        if is_pending {
            self.counted.push(counted);
        } else {
            self.report_ended(counted, now);
        }
    }

    /// Adds an ended stall to the results that the metrics, `routes` and `recent_stalls` are made
    /// of.
    fn account(&self, stall: &StallMessage, ends: Ends, report: &Stall) {
        let mut history = self.monitor.history.lock();
        history.push(stall.id, ends.stall, report.clone());
        if !stall.on_worker {
            *history.off_worker.entry(stall.poll.route).or_default() += 1;
            return;
        }
        let by_cause = history.stalls.entry(stall.poll.route).or_default();
        by_cause.entry(report.cause).or_default().add(&self.monitor.bounds, stall.ticks);
        history.splits.entry(stall.poll.route).or_default().add(&report.split);
    }

    /// Reports the counted stalls whose stacks are symbolized by now, or have taken too long.
    fn report_stacked(&mut self, now: Instant) {
        for mut counted in std::mem::take(&mut self.counted) {
            let (id, arrived) = (counted.stall.id, counted.arrived);
            if self.may_wait_for_stacks(id, arrived, STACK_TIMEOUT, now) {
                self.counted.push(counted);
                continue;
            }
            self.add_stacks(&mut counted);
            self.report_ended(counted, now);
        }
    }

    /// Completes a report with the stacks that were symbolized after it was counted. What was
    /// counted stands: its duration and its cause.
    fn add_stacks(&self, counted: &mut CountedStall) {
        let CountedStall { stall, ends, samples, report, .. } = counted;
        samples.extend(self.take_samples(stall, stall.ticks));
        let Some(complete) = self.build(stall, *ends, samples) else { return };
        if complete.cause != report.cause {
            return;
        }
        *report = Stall {
            syscall: complete.syscall,
            detail: complete.detail,
            missing: complete.missing,
            frames: complete.frames,
            ..report.clone()
        };
        self.monitor.history.lock().replace(stall.id, report.clone());
    }

    fn report_ended(&mut self, counted: CountedStall, now: Instant) {
        let CountedStall { stall, parent, samples, report, .. } = counted;
        {
            let Self { monitor, .. } = self;
            let collapsed = &mut monitor.history.lock().collapsed;
            let (method, route) = (report.method, &report.route);
            collapsed.add_all(method, route, &samples, stall.ticks, &monitor.clock);
        }
        self.send(stall.id, report, parent, now);
    }

    fn send(&mut self, id: PollId, stall: Stall, parent: Parent, sent_at: Instant) {
        let unneeded = self.outputs.send(Message { id, stall, sent_at }, parent);
        self.unneeded_spans.extend(unneeded);
    }

    /// Takes the samples of a poll up to an age.
    fn take_samples(&self, stall: &StallMessage, age: u64) -> Vec<StackSample> {
        let mut samples = self.monitor.history.lock().samples.take(stall.id);
        // A thread may have responded to a signal late, when the poll had ended.
        samples.retain(|sample| sample.age <= age);
        samples
    }

    fn build(&self, stall: &StallMessage, ends: Ends, samples: &[StackSample]) -> Option<Stall> {
        let throttled = self.cpu_quota.recent();
        let monitor = &self.monitor;
        let builder = StallBuilder {
            monitor,
            stall,
            end: ends.poll,
            stall_end: ends.stall,
            in_progress: false,
            samples,
            throttled,
        };
        builder.build()
    }

    /// Sends each requested notice once.
    fn send_notices(&mut self) {
        let Self { monitor, outputs, pending_notices, .. } = self;
        pending_notices.retain(|notice| {
            !(monitor.queue.has_notice(*notice) && outputs.log.send_notice(*notice))
        });
    }

    /// Closes the spans that are not needed, or that have been kept open for too long.
    fn release_spans(&mut self, now: Instant) {
        for counted in &mut self.counted {
            if now.saturating_duration_since(counted.arrived) >= MAX_SPAN_HOLD {
                self.unneeded_spans.extend(counted.parent.take_span());
            }
        }
        self.unneeded_spans.extend(self.outputs.log.take_expired_spans(now));
        self.outputs.log.close_spans(std::mem::take(&mut self.unneeded_spans));
    }

    /// Returns whether there is anything that is not reported yet.
    fn is_waiting(&self) -> bool {
        !(self.in_progress.is_empty() && self.ended.is_empty() && self.counted.is_empty())
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::os::Clock;
    use crate::routes::{MethodLabel, RouteId};
    use crate::shard::{PollInfo, TimeBreakdown};
    use crate::stacks::ThreadRole;
    use crate::stall::{Frame, Location, Missing, Phase};
    use crate::state::tests::state;
    use crate::trace::SpanRef;

    const MILLI: u64 = 1_000_000;
    const ID: PollId = PollId { shard: 1 << 40, start: 1_000 * MILLI };

    /// A reporter that runs on no thread, at a time that is set by hand.
    struct Driven {
        monitor: Arc<MonitorState>,
        reporter: Reporter,
        route: RouteId,
        now: Instant,
    }

    impl Driven {
        fn new() -> Self {
            let monitor = state(Clock::Manual(Arc::new(AtomicU64::new(2_000 * MILLI))));
            let mut monitor = Arc::into_inner(monitor).unwrap();
            monitor.stacks_missing = None;
            let monitor = Arc::new(monitor);
            let (outputs, _, _) = Outputs::new(Arc::clone(&monitor), Some(Box::new(|_| ())), 10);
            let reporter = Reporter::new(Arc::clone(&monitor), outputs);
            let route = monitor.routes.id(MethodLabel::HEAD, Some("/a"));
            Self { monitor, reporter, route, now: Instant::now() }
        }

        /// Sends a stall of 100 ms that has ended, and that was on-CPU.
        fn end(&self, breakdown: Option<TimeBreakdown>) {
            self.end_poll(ID, breakdown);
        }

        fn end_poll(&self, id: PollId, breakdown: Option<TimeBreakdown>) {
            let stall = self.message(id, breakdown);
            let end = id.start + 100 * MILLI;
            let ended = EndedStall { stall, end, span: SpanRef::none() };
            assert!(self.monitor.queue.push_ended(ended));
            self.monitor.scanned_until.set(end + 1);
        }

        fn message(&self, id: PollId, breakdown: Option<TimeBreakdown>) -> StallMessage {
            let poll = PollInfo {
                route: self.route,
                phase: Phase::Handler,
                start: id.start,
                span: 0,
                stack_mark: 0,
            };
            StallMessage {
                id,
                poll,
                ticks: 100 * MILLI,
                threshold: 25 * MILLI,
                worker: Some(0),
                on_worker: true,
                in_flight: 0,
                io_starved: false,
                rescued: false,
                breakdown,
            }
        }

        fn sample(&self, age: u64, role: ThreadRole) {
            self.sample_at(age, role, &[]);
        }

        fn sample_at(&self, age: u64, role: ThreadRole, frames: &[Frame]) {
            let sample = StackSample {
                age: age * MILLI,
                blocked_in: None,
                role,
                missing: None,
                fd_target: None,
                frames: frames.into(),
            };
            self.monitor.history.lock().samples.push(ID, sample);
        }

        /// Runs the reporter once, and returns what it sends to the hook.
        fn reports(&mut self) -> Vec<Stall> {
            self.reporter.run_once(self.now, self.monitor.queue.is_closed());
            let hook = self.reporter.outputs.hook.as_ref().unwrap();
            hook.take_all().into_iter().map(|message| message.stall).collect()
        }

        fn durations(&mut self) -> Vec<Duration> {
            self.reports().iter().map(Stall::duration).collect()
        }

        fn recent(&self) -> Vec<Stall> {
            self.monitor.history.lock().recent().cloned().collect()
        }

        fn handed_off(&self) -> u64 {
            self.monitor.history.lock().handed_off.get(&self.route).copied().unwrap_or_default()
        }
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn frame() -> Frame {
        let location = Some(Location { file: "src/report.rs".into(), line: 7 });
        Frame { function: "report".into(), location, is_application: true }
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
        driven.sample(20, ThreadRole::HandedOff);
        driven.end(None);
        assert_eq!(driven.durations(), []);
        assert_eq!(driven.handed_off(), 1);
    }

    #[test]
    fn a_poll_handed_off_late_is_a_stall_until_then() {
        let mut driven = Driven::new();
        for (age, role) in
            [(20, ThreadRole::Worker), (40, ThreadRole::Worker), (80, ThreadRole::HandedOff)]
        {
            driven.sample(age, role);
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
        driven.sample(101, ThreadRole::HandedOff);
        driven.end(None);
        assert_eq!(driven.durations(), [millis(100)]);
        assert_eq!(driven.handed_off(), 0);
    }

    #[test]
    fn a_stack_may_show_a_hand_off_until_the_stall_is_counted() {
        let mut driven = Driven::new();
        driven.monitor.capture_pool.begin(ID);
        driven.end(None);
        assert_eq!((driven.reports().len(), driven.recent().len()), (0, 0));
        driven.sample(20, ThreadRole::HandedOff);
        driven.monitor.capture_pool.end(ID);
        assert_eq!((driven.reports().len(), driven.recent().len()), (0, 0));
        assert_eq!(driven.handed_off(), 1);
    }

    #[test]
    fn a_stall_is_counted_soon_and_reported_once_its_stack_is_symbolized() {
        let mut driven = Driven::new();
        driven.monitor.capture_pool.begin(ID);
        driven.end(None);
        driven.reports();
        driven.now += COUNT_TIMEOUT;
        assert_eq!(driven.durations(), [], "its stack is still to be symbolized");
        let shown = driven.recent();
        assert_eq!((shown.len(), shown[0].missing), (1, Some(Missing::NotSymbolized)));
        assert!(driven.monitor.queue.take_flush(), "the metrics have it");
        driven.now += STACK_TIMEOUT / 2;
        driven.sample_at(20, ThreadRole::Worker, &[frame()]);
        driven.monitor.capture_pool.end(ID);
        let reports = driven.reports();
        assert_eq!((reports.len(), reports[0].location().unwrap().line()), (1, 7));
        assert_eq!(reports[0].missing, None);
        assert_eq!(driven.recent()[0].location(), reports[0].location());
        assert_eq!(driven.recent().len(), 1);
        let collapsed = driven.monitor.history.lock().collapsed.text();
        assert_eq!(collapsed, "HEAD /a;report at src/report.rs:7 100\n");
        assert_eq!(driven.durations(), [], "it is reported once");
    }

    #[test]
    fn a_stall_whose_stack_is_not_symbolized_in_time_is_reported_with_the_reason() {
        let mut driven = Driven::new();
        driven.monitor.capture_pool.begin(ID);
        driven.end(None);
        driven.reports();
        driven.now += COUNT_TIMEOUT;
        driven.reports();
        driven.now += STACK_TIMEOUT;
        let missing: Vec<_> = driven.reports().iter().map(|stall| stall.missing).collect();
        assert_eq!(missing, [Some(Missing::NotSymbolized)]);
    }

    #[test]
    fn a_stall_that_waits_for_its_stack_keeps_no_other_waiting() {
        let mut driven = Driven::new();
        driven.monitor.capture_pool.begin(ID);
        driven.end(None);
        let other = PollId { start: ID.start + MILLI, ..ID };
        driven.end_poll(other, None);
        assert_eq!(driven.durations(), [millis(100)]);
        driven.monitor.capture_pool.end(ID);
        assert_eq!(driven.durations(), [millis(100)]);
    }

    #[test]
    fn a_hand_off_that_is_found_after_the_stall_was_counted_does_not_change_it() {
        let mut driven = Driven::new();
        driven.monitor.capture_pool.begin(ID);
        driven.end(None);
        driven.reports();
        driven.now += COUNT_TIMEOUT;
        driven.reports();
        driven.sample(20, ThreadRole::HandedOff);
        driven.monitor.capture_pool.end(ID);
        assert_eq!(driven.durations(), [millis(100)]);
        assert_eq!(driven.handed_off(), 0);
    }

    #[test]
    fn the_end_of_the_monitor_waits_for_stacks_but_not_for_long() {
        let mut driven = Driven::new();
        driven.monitor.capture_pool.begin(ID);
        driven.end(None);
        driven.monitor.queue.close();
        assert_eq!(driven.durations(), []);
        assert!(driven.reporter.is_waiting());
        driven.now += CLOSE_TIMEOUT;
        assert_eq!(driven.durations(), [millis(100)]);
        assert!(!driven.reporter.is_waiting());
    }

    #[test]
    fn a_stall_in_progress_is_reported_with_its_stacks_unless_it_has_ended() {
        let mut driven = Driven::new();
        let id = PollId { shard: 0, ..ID };
        driven.monitor.unattributed[0].begin(ID.start);
        let stall = driven.message(id, None);
        driven.monitor.queue.push_in_progress(InProgressReport { stall });
        driven.monitor.capture_pool.begin(id);
        assert_eq!(driven.durations(), []);
        driven.monitor.capture_pool.end(id);
        assert_eq!(driven.durations(), [millis(100)]);

        driven.monitor.queue.push_in_progress(InProgressReport { stall });
        driven.monitor.unattributed[0].begin(0);
        assert_eq!(driven.durations(), [], "its end is reported");
    }

    #[test]
    fn the_number_of_waiting_stalls_is_bounded() {
        let mut driven = Driven::new();
        for start in 1..=1_024 {
            driven.end_poll(PollId { shard: 1 << 40, start }, None);
        }
        driven.monitor.scanned_until.set(0);
        assert_eq!(driven.durations(), []);
        driven.end(None);
        driven.monitor.scanned_until.set(0);
        driven.reports();
        assert_eq!(driven.reporter.ended.len(), MAX_WAITING);
        assert!(driven.monitor.queue.pop_ended().is_some(), "the others stay in the queue");
    }
}
