use std::sync::atomic::AtomicU64;

use super::*;
use crate::os::Clock;
use crate::report::stall_builder::StallBuilder;
use crate::routes::{MethodLabel, RouteId};
use crate::shard::{PollInfo, TimeBreakdown};
use crate::stacks::{CaptureFailure, ThreadRole};
use crate::stall::{Frame, Location, Missing, Phase};
use crate::state::tests::state;
use crate::state::{Delay, Lane};
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
        let route = monitor.routes.id(MethodLabel::HEAD, "/a");
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
            rescued_at: None,
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
            kernel_call: None,
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
    Frame { function: "report".into(), location, is_application: true, ..Frame::default() }
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
    assert_eq!(driven.durations(), [], "whom the other has delayed may depend on this one");
    driven.now += DELAY_TIMEOUT;
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
fn a_stall_in_progress_without_a_stack_has_not_ended() {
    let driven = Driven::new();
    let message = driven.message(ID, None);
    let missing = |in_progress| {
        let monitor = &driven.monitor;
        let report = StallBuilder::in_progress(monitor, &message, &[], Duration::ZERO);
        StallBuilder { in_progress, ..report }.build().unwrap().missing
    };
    driven.monitor.set_capture_failure(ID, CaptureFailure::Ended);
    assert_eq!(missing(true), Some(Missing::NotCaptured));
    assert_eq!(missing(false), Some(Missing::Capture(CaptureFailure::Ended)));
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
fn a_report_names_whom_the_stall_has_delayed() {
    let mut driven = Driven::new();
    let victim = driven.monitor.routes.id(MethodLabel::HEAD, "/b");
    driven.monitor.routes.confirm(MethodLabel::HEAD, "/b");
    let (ready, polled) = (ID.start + 10 * MILLI, ID.start + 101 * MILLI);
    let lane = Lane::Worker(0);
    let in_socket = false;
    let delay = Delay { lane, route: victim, ready, polled, in_socket, busy_since: polled };
    driven.monitor.attribution.push_delay(delay);
    driven.end(None);
    let reports = driven.reports();
    assert_eq!(reports.len(), 1);
    let delayed = &reports[0].delayed()[0];
    assert_eq!((delayed.route(), delayed.requests()), ("/b", 1));
    assert_eq!([delayed.total(), delayed.longest()], [millis(90); 2]);
    assert_eq!(driven.recent()[0].delay_caused(), millis(90));
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
