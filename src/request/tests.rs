use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use super::*;
use crate::os::Clock;
use crate::routes::{MethodLabel, RouteId, Routes};
use crate::shard::{Outcome, RouteTotals};
use crate::state::MonitorState;
use crate::state::tests::state;

struct NoopTask;

impl Wake for NoopTask {
    fn wake(self: Arc<Self>) {}
}

/// Creates a monitor whose clock is set by hand, and initially reads 1,000.
fn setup() -> (Arc<AtomicU64>, Arc<MonitorState>) {
    let time = Arc::new(AtomicU64::new(1_000));
    let monitor = state(Clock::Manual(Arc::clone(&time)));
    monitor.set_threshold(Duration::from_secs(1));
    (time, monitor)
}

fn route(monitor: &MonitorState) -> RouteId {
    monitor.routes.id(MethodLabel::HEAD, "/a")
}

fn request(monitor: &Arc<MonitorState>, method: MethodLabel) -> RequestGuard {
    RequestGuard::request(monitor, method, |_| route(monitor).into())
}

/// Polls once, from now until `end`, and returns a clone of the waker.
fn poll(guard: &mut RequestGuard, time: &AtomicU64, end: u64) -> Waker {
    let task = Waker::from(Arc::new(NoopTask));
    let record = guard.bind_to_current_thread().unwrap();
    let (poll, waker) = PollGuard::<HANDLER>::begin_poll(record, &task, &StackMark::new());
    let cloned = waker.clone();
    time.store(end, Ordering::Relaxed);
    poll.end();
    cloned
}

fn totals(monitor: &MonitorState) -> RouteTotals {
    monitor.totals(route(monitor))
}

#[test]
fn a_recycled_record_carries_nothing_over() {
    let (time, monitor) = setup();
    let mut first = request(&monitor, MethodLabel::HEAD);
    let address = std::ptr::from_ref(first.record().unwrap());
    poll(&mut first, &time, 1_100).wake();
    // The wake leads to this poll; the wake after it comes too late.
    poll(&mut first, &time, 1_200).wake();
    first.end_with_error();
    let seen = totals(&monitor);
    assert_eq!((seen.schedule_latency.count(), seen.request_busy.ticks()), (1, 200));

    time.store(2_000, Ordering::Relaxed);
    let mut second = request(&monitor, MethodLabel::TASK);
    let record = second.record().unwrap();
    assert_eq!(std::ptr::from_ref(record), address);
    PollGuard::<HANDLER>::begin_call(record, &StackMark::new()).end();
    poll(&mut second, &time, 2_010);
    drop(second);
    let seen = totals(&monitor);
    assert_eq!((seen.schedule_latency.count(), seen.request_busy.ticks()), (1, 210));
    let ended = |outcome| seen.ended[outcome as usize];
    assert_eq!((ended(Outcome::Error), ended(Outcome::Cancelled)), (1, 1));
}

#[test]
fn a_task_on_the_record_of_a_request_is_not_a_request() {
    let (_, monitor) = setup();
    drop(request(&monitor, MethodLabel::HEAD));
    drop(RequestGuard::task(&monitor, "task"));
    let _in_flight = request(&monitor, MethodLabel::HEAD);
    assert_eq!(monitor.other_requests_in_flight(Routes::UNATTRIBUTED), 1);
}

/// Returns for how long the request of `/a` that has waited longest has not been polled, in ticks.
fn unpolled(monitor: &MonitorState) -> Option<u64> {
    let nanos = |age: Duration| u64::try_from(age.as_nanos()).unwrap();
    monitor.oldest_requests().get(&route(monitor)).map(|&age| nanos(age))
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn a_request_has_an_age_once_it_was_not_polled_for_a_second() {
    let (time, monitor) = setup();
    let mut guard = request(&monitor, MethodLabel::HEAD);
    PollGuard::<HANDLER>::begin_call(guard.record().unwrap(), &StackMark::new()).end();
    time.store(1_000 + SECOND, Ordering::Relaxed);
    assert_eq!(unpolled(&monitor), None);
    time.store(1_001 + SECOND, Ordering::Relaxed);
    assert_eq!(unpolled(&monitor), Some(SECOND + 1), "the call counts as a poll");
    poll(&mut guard, &time, 2_000 + SECOND);
    time.store(3 * SECOND, Ordering::Relaxed);
    assert_eq!(unpolled(&monitor), Some(2 * SECOND - 1_001), "since the poll began");
    drop(guard);
    assert_eq!(unpolled(&monitor), None);
}

#[test]
fn a_poll_that_does_not_return_has_an_age() {
    let (time, monitor) = setup();
    let mut guard = request(&monitor, MethodLabel::HEAD);
    let _poll = PollGuard::<BODY>::begin_call(guard.record().unwrap(), &StackMark::new());
    time.store(1_000 + 2 * SECOND, Ordering::Relaxed);
    assert_eq!(unpolled(&monitor), Some(2 * SECOND));
}

#[test]
fn a_recycled_record_has_the_age_and_the_route_of_its_request() {
    let (time, monitor) = setup();
    let other_route = monitor.routes.id(MethodLabel::HEAD, "/b");
    for start in [1, 2].map(|round| round * 10 * SECOND) {
        for route in [route(&monitor), other_route] {
            time.store(start, Ordering::Relaxed);
            let mut guard = RequestGuard::request(&monitor, MethodLabel::HEAD, |_| route.into());
            poll(&mut guard, &time, start);
            time.store(start + 2 * SECOND, Ordering::Relaxed);
            let age = Duration::from_secs(2);
            assert_eq!(Vec::from_iter(monitor.oldest_requests()), [(route, age)]);
        }
    }
}

#[test]
fn a_task_has_no_age_as_a_request() {
    let (time, monitor) = setup();
    let mut guard = RequestGuard::task(&monitor, "task");
    poll(&mut guard, &time, 1_000);
    time.store(9 * SECOND, Ordering::Relaxed);
    assert!(monitor.oldest_requests().is_empty());
}

#[test]
fn a_request_that_moves_between_threads_has_one_age() {
    let (time, monitor) = setup();
    let mut guard = request(&monitor, MethodLabel::HEAD);
    let on_other_thread = |guard: RequestGuard, f: fn(&mut RequestGuard, &AtomicU64)| {
        let (mut guard, time) = (guard, Arc::clone(&time));
        let run = move || {
            f(&mut guard, &time);
            guard
        };
        std::thread::spawn(run).join().unwrap()
    };
    poll(&mut guard, &time, 1_000);
    time.store(2 * SECOND, Ordering::Relaxed);
    let guard = on_other_thread(guard, |guard, time| drop(poll(guard, time, 2 * SECOND)));
    time.store(5 * SECOND, Ordering::Relaxed);
    assert_eq!(unpolled(&monitor), Some(3 * SECOND));
    drop(on_other_thread(guard, |guard, _| *guard = RequestGuard::default()));
    assert_eq!(unpolled(&monitor), None);
}

/// `cargo test --release -- --ignored --nocapture fifty_thousand`
#[test]
#[ignore = "a measurement"]
fn a_scan_of_fifty_thousand_requests() {
    let (time, monitor) = setup();
    let mut guards: Vec<_> = (0..50_000).map(|_| request(&monitor, MethodLabel::HEAD)).collect();
    guards.iter_mut().for_each(|guard| drop(poll(guard, &time, 1_000)));
    time.store(9 * SECOND, Ordering::Relaxed);
    for _ in 0..5 {
        let start = std::time::Instant::now();
        assert_eq!(monitor.oldest_requests().len(), 1);
        println!("{:?}", start.elapsed());
    }
}

#[test]
fn a_clock_that_runs_backwards_adds_nothing() {
    let (time, monitor) = setup();
    let mut guard = request(&monitor, MethodLabel::HEAD);
    poll(&mut guard, &time, 1_100).wake();
    // As on a processor whose counter is behind.
    time.store(900, Ordering::Relaxed);
    poll(&mut guard, &time, 800);
    drop(guard);
    let seen = totals(&monitor);
    assert_eq!((seen.all_polls().count(), seen.all_polls().ticks()), (2, 100));
    assert_eq!((seen.schedule_latency.count(), seen.schedule_latency.ticks()), (1, 0));
    assert_eq!((seen.request_busy.ticks(), seen.request_duration.ticks()), (100, 0));
}

/// A subscriber that panics when it is asked for the current span.
struct PanickingSubscriber;

impl tracing::Subscriber for PanickingSubscriber {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}

    fn current_span(&self) -> tracing_core::span::Current {
        panic!("from the test")
    }
}

#[test]
fn a_subscriber_that_panics_at_a_nested_stall_leaves_the_slot_consistent() {
    let (time, monitor) = setup();
    let mut outer = RequestGuard::task(&monitor, "outer");
    let mut inner = RequestGuard::task(&monitor, "inner");
    let shard = Arc::clone(local_handle(&monitor).shard());
    let mark = StackMark::new();
    let outer_poll = PollGuard::<HANDLER>::begin_call(outer.record().unwrap(), &mark);
    let inner_poll = PollGuard::<HANDLER>::begin_call(inner.record().unwrap(), &mark);
    time.fetch_add(2_000_000_000, Ordering::Relaxed);
    let end = AssertUnwindSafe(|| inner_poll.end());
    let ended = tracing::subscriber::with_default(PanickingSubscriber, || catch_unwind(end));
    assert!(ended.is_err(), "the stall is reported in the current span");
    assert!(shard.current_poll.is_active(), "the outer poll is still in progress");
    outer_poll.end();
    assert!(!shard.current_poll.is_active());
}

/// The thread that continues the request has the shard of the one that has ended.
#[test]
fn a_request_that_outlives_its_thread_is_counted_by_the_next_one() {
    let (time, monitor) = setup();
    let start = || {
        let mut guard = request(&monitor, MethodLabel::HEAD);
        poll(&mut guard, &time, 1_100);
        guard
    };
    let guard = std::thread::scope(|scope| scope.spawn(start).join().unwrap());
    while monitor.shards.leased().count() > 0 {
        std::thread::yield_now();
    }
    let finish = |mut guard: RequestGuard| {
        drop(request(&monitor, MethodLabel::HEAD));
        poll(&mut guard, &time, 1_200);
        guard.end_with_error();
        // On the record of the other request.
        drop(request(&monitor, MethodLabel::HEAD));
    };
    std::thread::scope(|scope| scope.spawn(|| finish(guard)).join().unwrap());
    let seen = totals(&monitor);
    assert_eq!((seen.started, seen.ended(), seen.all_polls().count()), (3, 3, 2));
    assert_eq!(seen.ended[Outcome::Error as usize], 1);
}
