//! Tests of the schedule delay: from a request's wake to its next poll, request by request.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(all(feature = "axum", feature = "prometheus"))]

mod support;

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Empty;
use support::{by_path, eventually, get, scrape};
use tower::util::BoxService;
use tower::{Layer, Service, service_fn};
use tower_stall::{StallBody, StallMonitor};

const NAP: Duration = Duration::from_millis(60);

type Wakers = Arc<Mutex<Vec<(String, Waker)>>>;
type Waiting = BoxService<Request<()>, Response<StallBody<Empty<bytes::Bytes>>>, Infallible>;

/// Answers the second time it is polled, and leaves its waker by its path.
fn waiting(monitor: &StallMonitor, wakers: &Wakers) -> Waiting {
    let wakers = Arc::clone(wakers);
    let service = service_fn(move |request: Request<()>| {
        let (wakers, mut waited) = (Arc::clone(&wakers), false);
        poll_fn(move |cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(Ok(Response::new(Empty::<bytes::Bytes>::new())));
            }
            wakers.lock().unwrap().push((request.uri().path().to_owned(), cx.waker().clone()));
            Poll::Pending
        })
    });
    BoxService::new(monitor.layer().layer(service))
}

fn delays(route: &str) -> (f64, f64) {
    let labels = [("method", "GET"), ("route", route)];
    let scrape = scrape();
    let of = |suffix| scrape.sum(&format!("tower_stall_schedule_delay_seconds_{suffix}"), &labels);
    (of("count"), of("sum"))
}

fn polled(route: &str, polls: f64) {
    let labels = [("method", "GET"), ("route", route)];
    eventually("all polls are told", || scrape().sum("tower_stall_poll_duration_seconds_count", &labels) >= polls);
}

/// A test that of two requests in one task, as on one HTTP/2 connection, only the one that was woken was kept waiting.
#[tokio::test]
async fn each_request_has_its_own_delay_also_within_one_task() {
    let monitor = by_path().spawn().unwrap();
    let wakers = Wakers::default();
    let mut service = waiting(&monitor, &wakers);
    let (mut woken, mut other) = (pin!(service.call(get("/delay/woken"))), pin!(service.call(get("/delay/other"))));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(woken.as_mut().poll(&mut cx).is_pending() && other.as_mut().poll(&mut cx).is_pending());

    let waker = wakers.lock().unwrap().iter().find(|(path, _)| path == "/delay/woken").unwrap().1.clone();
    waker.wake();
    thread::sleep(NAP);
    assert!(woken.as_mut().poll(&mut cx).is_ready() && other.as_mut().poll(&mut cx).is_ready());

    polled("/delay/woken", 3.0);
    polled("/delay/other", 3.0);
    let (count, sum) = delays("/delay/woken");
    assert!(count == 1.0 && sum >= NAP.as_secs_f64(), "{count} delays of {sum} s");
    assert_eq!(delays("/delay/other").0, 0.0);
}

/// A test that the victim of somebody else's stall shows it.
#[tokio::test]
async fn a_request_woken_behind_a_blocking_task_was_late() {
    let monitor = by_path().spawn().unwrap();
    let wakers = Wakers::default();
    let mut service = waiting(&monitor, &wakers);
    let victim = tokio::spawn({
        let call = service.call(get("/delay/victim"));
        async move { drop(call.await) }
    });
    while wakers.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    // This task is the blocking one: it goes on after the wake, on the only thread.
    wakers.lock().unwrap()[0].1.wake_by_ref();
    thread::sleep(NAP);
    victim.await.unwrap();
    polled("/delay/victim", 3.0);
    let (count, sum) = delays("/delay/victim");
    assert!(count == 1.0 && sum >= NAP.as_secs_f64(), "{count} delays of {sum} s");
}

/// A test that a future that wakes itself in a long poll is not called late for the rest of that poll.
#[tokio::test]
async fn a_poll_s_own_time_is_no_delay() {
    let monitor = by_path().spawn().unwrap();
    let mut service = monitor.layer().layer(service_fn(|_: Request<()>| {
        let mut waited = false;
        poll_fn(move |cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new())));
            }
            cx.waker().wake_by_ref();
            thread::sleep(NAP);
            Poll::Pending
        })
    }));
    let mut call = pin!(service.call(get("/delay/self")));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(call.as_mut().poll(&mut cx).is_pending());
    assert!(call.as_mut().poll(&mut cx).is_ready());
    polled("/delay/self", 3.0);
    let (count, sum) = delays("/delay/self");
    assert!(count == 1.0 && sum < NAP.as_secs_f64() / 2.0, "{count} delays of {sum} s");
}

/// A test that a request that is only dropped has no delay.
#[tokio::test]
async fn a_request_that_is_never_woken_has_no_delay() {
    let monitor = by_path().spawn().unwrap();
    let mut service =
        monitor.layer().layer(service_fn(|_: Request<()>| pending::<Result<Response<String>, Infallible>>()));
    {
        let mut call = pin!(service.call(get("/delay/never")));
        for _ in 0..3 {
            assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
    }
    polled("/delay/never", 4.0);
    assert_eq!(delays("/delay/never").0, 0.0);
}
