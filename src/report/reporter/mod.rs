//! The reporter's thread: decides about each ended stall, counts it, and sends its report. It runs
//! no code of others, and waits for none: not for the recorder, the subscriber, the hook, nor for
//! debug information.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attribution::Attribution;
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
/// How long after the end of a stall the requests that waited in a socket until then are read.
const READ_TIMEOUT: Duration = Duration::from_millis(20);
/// How long it then waits, before it is counted, for stacks that may show a hand-off.
const COUNT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a stall of unmeasured code in progress waits for its first stack, which may show that
/// the thread is not inside the runtime at all.
const UNMEASURED_TIMEOUT: Duration = Duration::from_secs(5);
/// For how long after its end a stall may turn out to have delayed a request: that long it takes
/// the workers to poll what was waiting. With what the attribution lags behind, a report is held
/// back for 100 ms.
const DELAY_WINDOW: Duration = Duration::from_millis(80);
/// How long a counted stall waits for the delays that it has caused: longer than another stall,
/// which may have a share in them, waits until it is counted.
const DELAY_TIMEOUT: Duration = Duration::from_millis(700);
/// How often the reporter checks for these.
const DELAY_INTERVAL: Duration = Duration::from_millis(10);
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
    attribution: Attribution,
    /// Stalls in progress that are not reported yet, with the time of arrival.
    in_progress: VecDeque<(Instant, InProgressReport)>,
    /// Ended stalls that are not counted yet, with the time of arrival.
    ended: VecDeque<(Instant, EndedStall)>,
    /// Ended stalls that are counted, but not reported yet.
    counted: Vec<CountedStall>,
    /// The notices that have not been sent.
    pending_notices: Vec<Notice>,
    /// The spans that are no longer needed.
    unneeded_spans: Vec<SpanRef>,
    /// When the queue was closed.
    closed_at: Option<Instant>,
}

/// An ended stall that is counted, and shown, but not reported: stacks of it are still to be
/// symbolized, or it is not known yet whom it has delayed.
struct CountedStall {
    arrived: Instant,
    /// Whether it was counted without some of its stacks.
    lacks_stacks: bool,
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
            attribution: Attribution::new(Arc::clone(&monitor)),
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
        } else if self.counted.iter().any(|counted| counted.arrived.elapsed() < DELAY_TIMEOUT) {
            std::thread::park_timeout(DELAY_INTERVAL);
        } else if self.attribution.has_pending() {
            std::thread::park_timeout(Attribution::SETTLE_AFTER);
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
        // Before the ended stalls are taken from their queue.
        let ticks = self.monitor.clock.now();
        self.receive(now);
        self.attribute_delays(ticks);
        self.send_notices();
        self.report_complete(now);
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
            let is_measured = report.stall.poll.route != Routes::UNATTRIBUTED;
            let timeout = if is_measured { COUNT_TIMEOUT } else { UNMEASURED_TIMEOUT };
            if self.may_wait_for_stacks(report.stall.id, arrived, timeout, now) {
                self.in_progress.push_back((arrived, report));
            } else {
                self.report_in_progress(&report, arrived);
            }
        }
        self.attribution.receive();
        for (arrived, ended) in std::mem::take(&mut self.ended) {
            if self.is_countable(arrived, &ended, scanned_until, now) {
                self.count(ended, arrived);
                monitor.queue.request_flush();
            } else {
                self.ended.push_back((arrived, ended));
            }
        }
    }

    /// Attributes the delays of which it is known what kept the requests waiting.
    fn attribute_delays(&mut self, now: u64) {
        if self.closed_at.is_some() && self.ended.is_empty() {
            self.attribution.finish();
        } else {
            let undecided = self.ended.iter().map(|(_, ended)| ended.stall.poll.start).min();
            self.attribution.update(now, undecided);
        }
    }

    /// Returns whether the watchdog has scanned everything after the end of a stall, the stacks that
    /// it has captured are symbolized, and the requests that waited in a socket have been read.
    fn is_countable(
        &self,
        arrived: Instant,
        ended: &EndedStall,
        scanned_until: u64,
        now: Instant,
    ) -> bool {
        let waited = now.saturating_duration_since(arrived);
        let is_scanned = ended.end < scanned_until || waited >= SCAN_TIMEOUT;
        let is_open = self.closed_at.is_none();
        let reads_sockets = self.monitor.reads_sockets.is_set();
        let is_read = !(is_open && reads_sockets && waited < READ_TIMEOUT);
        is_scanned
            && is_read
            && !self.may_wait_for_stacks(ended.stall.id, arrived, COUNT_TIMEOUT, now)
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
        if let Some(mut report) = builder.build() {
            report.delayed = self.attribution.delayed_by(stall.id);
            self.send(stall.id, report, Parent::Id(stall.poll.span), arrived);
        }
    }

    /// Decides whether an ended poll was a stall, and counts it.
    fn count(&mut self, ended: EndedStall, arrived: Instant) {
        let EndedStall { mut stall, end, span } = ended;
        let mut stall_end = end;
        // Read before the samples: if no stack is pending, they are complete.
        let lacks_stacks = self.monitor.capture_pool.is_pending(stall.id);
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
                self.attribution.remove(&stall);
                self.unneeded_spans.push(span);
                return;
            }
            stall_end = stall.poll.start + stall.ticks;
            samples.retain(|sample| sample.age <= stall.ticks);
        }
        stall.in_flight += self.attribution.in_sockets_at(stall_end);
        let ends = Ends { poll: end, stall: stall_end };
        let Some(report) = self.build(&stall, ends, &samples) else {
            self.unneeded_spans.push(span);
            return;
        };
        self.attribution.add_stall(&stall, ends.stall, &report.split);
        let parent = Parent::Open(span);
        let counted = CountedStall { arrived, lacks_stacks, stall, ends, parent, samples, report };
        if !lacks_stacks {
            self.add_collapsed(&counted);
        }
        self.account(&counted.stall, counted.ends, &counted.report);
        self.counted.push(counted);
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

    /// Reports the counted stalls of which everything is known by now, or has taken too long.
    fn report_complete(&mut self, now: Instant) {
        for mut counted in std::mem::take(&mut self.counted) {
            let (id, arrived) = (counted.stall.id, counted.arrived);
            if self.may_wait_for_delays(&counted, now)
                || self.may_wait_for_stacks(id, arrived, STACK_TIMEOUT, now)
            {
                self.counted.push(counted);
                continue;
            }
            if counted.lacks_stacks {
                self.add_stacks(&mut counted);
                self.add_collapsed(&counted);
            }
            counted.report.delayed = self.attribution.delayed_by(id);
            self.attribution.forget(id);
            self.monitor.history.lock().replace(id, counted.report.clone());
            self.send(id, counted.report, counted.parent, now);
        }
    }

    /// Returns whether requests that a stall has delayed may not be known yet, and may be waited
    /// for.
    fn may_wait_for_delays(&self, counted: &CountedStall, now: Instant) -> bool {
        let window = self.monitor.clock.ticks(DELAY_WINDOW);
        let is_known = self.attribution.is_settled(counted.ends.poll + window);
        let has_elapsed = now.saturating_duration_since(counted.arrived) >= DELAY_TIMEOUT;
        !is_known && !has_elapsed && self.counted.len() < MAX_WAITING
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
    }

    /// Adds the stacks of a stall to those of all stalls.
    fn add_collapsed(&self, counted: &CountedStall) {
        let CountedStall { stall, samples, report, .. } = counted;
        let (method, route) = (report.method, &report.route);
        let collapsed = &mut self.monitor.history.lock().collapsed;
        collapsed.add_all(method, route, samples, stall.ticks, &self.monitor.clock);
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
mod tests;
