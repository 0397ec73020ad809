//! Tests of the schedule latency: the time from a request's wake to its next poll.
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

/// Returns a service whose futures store their waker at the first poll and are ready at the second.
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

/// Answers a request at once, after which the path has a row. That is a call and a poll.
fn answer(monitor: &StallMonitor, path: &str) {
    let answer = |_: Request<()>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new())))
    };
    let mut service = monitor.layer().layer(service_fn(answer));
    let mut call = pin!(service.call(get(path)));
    assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
}

fn latencies(route: &str) -> (f64, f64) {
    let labels = [("method", "GET"), ("route", route)];
    let scrape = scrape();
    let series =
        |suffix| scrape.sum(&format!("tower_stall_schedule_delay_seconds_{suffix}"), &labels);
    (series("count"), series("sum"))
}

/// Waits for polls of the test, beside those of `answer`.
fn wait_for_polls(route: &str, polls: f64) {
    let polls = polls + 2.0;
    let labels = [("method", "GET"), ("route", route)];
    eventually("all polls are in the text", || {
        scrape().sum("tower_stall_poll_duration_seconds_count", &labels) >= polls
    });
}

/// One task polls two requests, as on an HTTP/2 connection; only the one that was woken is late.
#[tokio::test]
async fn requests_of_one_task_have_separate_latencies() {
    let monitor = by_path().spawn().unwrap();
    answer(&monitor, "/latency/woken");
    answer(&monitor, "/latency/other");
    let wakers = Wakers::default();
    let mut service = waiting(&monitor, &wakers);
    let (mut woken, mut other) =
        (pin!(service.call(get("/latency/woken"))), pin!(service.call(get("/latency/other"))));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(woken.as_mut().poll(&mut cx).is_pending() && other.as_mut().poll(&mut cx).is_pending());

    let waker =
        wakers.lock().unwrap().iter().find(|(path, _)| path == "/latency/woken").unwrap().1.clone();
    waker.wake();
    thread::sleep(NAP);
    assert!(woken.as_mut().poll(&mut cx).is_ready() && other.as_mut().poll(&mut cx).is_ready());

    wait_for_polls("/latency/woken", 3.0);
    wait_for_polls("/latency/other", 3.0);
    let (count, sum) = latencies("/latency/woken");
    assert!(count == 1.0 && sum >= NAP.as_secs_f64(), "{count} latencies of {sum} s");
    assert_eq!(latencies("/latency/other").0, 0.0);
}

#[tokio::test]
async fn a_request_woken_behind_a_blocking_task_is_late() {
    let monitor = by_path().spawn().unwrap();
    answer(&monitor, "/latency/victim");
    let wakers = Wakers::default();
    let mut service = waiting(&monitor, &wakers);
    let victim = tokio::spawn({
        let call = service.call(get("/latency/victim"));
        async move { drop(call.await) }
    });
    while wakers.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    // This task blocks the only thread after the wake.
    wakers.lock().unwrap()[0].1.wake_by_ref();
    thread::sleep(NAP);
    victim.await.unwrap();
    wait_for_polls("/latency/victim", 3.0);
    let (count, sum) = latencies("/latency/victim");
    assert!(count == 1.0 && sum >= NAP.as_secs_f64(), "{count} latencies of {sum} s");
}

/// A future that wakes itself in a long poll is not late for the rest of that poll.
#[tokio::test]
async fn the_rest_of_a_poll_adds_no_latency() {
    let monitor = by_path().spawn().unwrap();
    answer(&monitor, "/latency/self");
    let mut service = monitor.layer().layer(service_fn(|_: Request<()>| {
        let mut waited = false;
        poll_fn(move |cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(Ok::<_, Infallible>(Response::new(
                    Empty::<bytes::Bytes>::new(),
                )));
            }
            cx.waker().wake_by_ref();
            thread::sleep(NAP);
            Poll::Pending
        })
    }));
    let mut call = pin!(service.call(get("/latency/self")));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(call.as_mut().poll(&mut cx).is_pending());
    assert!(call.as_mut().poll(&mut cx).is_ready());
    wait_for_polls("/latency/self", 3.0);
    let (count, sum) = latencies("/latency/self");
    assert!(count == 1.0 && sum < NAP.as_secs_f64() / 2.0, "{count} latencies of {sum} s");
}

#[tokio::test]
async fn a_request_that_is_never_woken_has_no_latency() {
    let monitor = by_path().spawn().unwrap();
    answer(&monitor, "/latency/never");
    let mut service = monitor
        .layer()
        .layer(service_fn(|_: Request<()>| pending::<Result<Response<String>, Infallible>>()));
    {
        let mut call = pin!(service.call(get("/latency/never")));
        for _ in 0..3 {
            assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
    }
    wait_for_polls("/latency/never", 4.0);
    assert_eq!(latencies("/latency/never").0, 0.0);
}
