use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Wake, Waker};

use super::*;
use crate::cells::Totals;
use crate::clock::Clock;
use crate::routes::Routes;
use crate::shared::Stacks;

struct Task;

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

/// A monitor whose clock stands at 1 000 until it is set.
fn setup() -> (Arc<AtomicU64>, Arc<Shared>) {
    let time = Arc::new(AtomicU64::new(1_000));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let stacks = Stacks { taken: false, signals: false };
    let clock = Clock::Manual(Arc::clone(&time));
    let shared = Shared::new(clock, runtime.handle().clone(), "test", 8, None, stacks);
    shared.set_threshold(std::time::Duration::from_secs(1));
    (time, Arc::new(shared))
}

fn request(shared: &Arc<Shared>, method: Method) -> Meter {
    Meter::request(shared, method, |_| route(shared))
}

fn route(shared: &Shared) -> RouteId {
    shared.routes.id(Method::HEAD, Some("/a"))
}

/// Polls once, from now until `end`. The waker that it lent.
fn poll(meter: &mut Meter, time: &AtomicU64, end: u64) -> Waker {
    let task = Waker::from(Arc::new(Task));
    let (polling, waker) = meter.here().expect("it measures").poll::<HANDLER>(&task, &Mark::new());
    let kept = waker.clone();
    time.store(end, Ordering::Relaxed);
    polling.end();
    kept
}

fn totals(shared: &Shared) -> Totals {
    Totals::read(shared.lanes.cells(route(shared)))
}

#[test]
fn a_record_that_is_used_again_brings_nothing_along() {
    let (time, shared) = setup();
    let mut first = request(&shared, Method::HEAD);
    let address = std::ptr::from_ref(first.record().unwrap());
    poll(&mut first, &time, 1_100).wake();
    // The wake led to this poll, whose own wake comes too late.
    poll(&mut first, &time, 1_200).wake();
    first.for_error();
    assert_eq!((totals(&shared).schedule_delay.count(), totals(&shared).request_busy.ticks()), (1, 200));

    time.store(2_000, Ordering::Relaxed);
    let mut second = request(&shared, Method::TASK);
    let record = second.record().unwrap();
    assert_eq!(std::ptr::from_ref(record), address);
    assert!(record.account.method != Method::HEAD);
    record.call(&Mark::new()).end();
    poll(&mut second, &time, 2_010);
    drop(second);
    let totals = totals(&shared);
    assert_eq!((totals.schedule_delay.count(), totals.request_busy.ticks()), (1, 210));
    assert_eq!((totals.ended[Outcome::Error as usize], totals.ended[Outcome::Cancelled as usize]), (1, 1));
}

#[test]
fn a_task_on_the_record_of_a_request_is_no_request() {
    let (_, shared) = setup();
    drop(request(&shared, Method::HEAD));
    drop(Meter::task(&shared, "task"));
    let _in_flight = request(&shared, Method::HEAD);
    assert_eq!(shared.held_up_by(Routes::UNATTRIBUTED), 1);
}

#[test]
fn a_clock_that_runs_backwards_adds_nothing() {
    let (time, shared) = setup();
    let mut meter = request(&shared, Method::HEAD);
    poll(&mut meter, &time, 1_100).wake();
    // As on a processor whose counter is behind.
    time.store(900, Ordering::Relaxed);
    poll(&mut meter, &time, 800);
    drop(meter);
    let totals = totals(&shared);
    assert_eq!((totals.all_polls().count(), totals.all_polls().ticks()), (2, 100));
    assert_eq!((totals.schedule_delay.count(), totals.schedule_delay.ticks()), (1, 0));
    assert_eq!((totals.request_busy.ticks(), totals.request_duration.ticks()), (100, 0));
}

/// A subscriber of which nobody can ask anything.
struct Panics;

impl tracing::Subscriber for Panics {
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
        panic!("of no use")
    }
}

#[test]
fn a_subscriber_that_panics_at_a_stall_inside_another_poll_leaves_nothing_behind() {
    let (time, shared) = setup();
    let (mut outer, mut inner) = (Meter::task(&shared, "outer"), Meter::task(&shared, "inner"));
    let lane = Arc::clone(&inner.record().unwrap().account.lane);
    let mark = Mark::new();
    let outside = outer.record().unwrap().call(&mark);
    let inside = inner.record().unwrap().call(&mark);
    time.fetch_add(2_000_000_000, Ordering::Relaxed);
    let end = std::panic::AssertUnwindSafe(|| inside.end());
    let ended = tracing::subscriber::with_default(Panics, || std::panic::catch_unwind(end));
    assert!(ended.is_err(), "the stall is told in the span");
    assert!(lane.slot.is_active(), "the outer poll goes on");
    outside.end();
    assert!(!lane.slot.is_active());
}
