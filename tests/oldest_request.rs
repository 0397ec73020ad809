//! Tests of the age of requests that are not polled.
#![cfg(feature = "prometheus")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use support::{builder, by_path, eventually, get, scrape, stats};
use tokio::sync::{Mutex, Notify};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_stall::StallMonitor;

const GAUGE: &str = "tower_stall_oldest_request_seconds";

/// Returns the value of the gauge, if the series exists.
fn age(route: &str) -> Option<f64> {
    scrape().values(GAUGE, &[("method", "GET"), ("route", route)]).next()
}

fn age_in_code(monitor: &StallMonitor, route: &str) -> Option<Duration> {
    stats(monitor, "GET", route).and_then(|stats| stats.oldest_request_age())
}

/// Sends a request to a handler on a task of its own.
fn send<F>(
    monitor: &StallMonitor,
    path: &'static str,
    handler: impl Fn() -> F + Send + 'static,
) -> tokio::task::JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let respond = move |_: Request<()>| {
        let response = handler();
        async move {
            response.await;
            Ok::<_, Infallible>(Response::new(String::new()))
        }
    };
    let mut service = monitor.layer().layer(service_fn(respond));
    let response = service.call(get(path));
    tokio::spawn(async move {
        response.await.unwrap();
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_async_deadlock_has_an_age_that_grows_until_the_request_is_dropped() {
    const ROUTE: &str = "/deadlock";
    let monitor = by_path().spawn().unwrap();
    let lock = Arc::new(Mutex::new(()));
    let locks_twice = move || {
        let lock = Arc::clone(&lock);
        async move {
            let _first = lock.lock().await;
            let _second = lock.lock().await;
        }
    };
    let request = send(&monitor, ROUTE, locks_twice);
    eventually("it has an age", || age(ROUTE).is_some_and(|age| age > 1.0));
    let before = age(ROUTE).unwrap();
    eventually("its age grows", || age(ROUTE).unwrap() > before);
    assert!(age_in_code(&monitor, ROUTE).unwrap().as_secs_f64() > before);
    assert_eq!(stats(&monitor, "GET", ROUTE).unwrap().oldest_stall_age(), None);
    request.abort();
    eventually("it is gone", || age(ROUTE) == Some(0.0));
    assert_eq!(age_in_code(&monitor, ROUTE), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_has_handed_off_its_worker_has_an_age() {
    const ROUTE: &str = "/block_in_place";
    let monitor = by_path().spawn().unwrap();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Arc::new(std::sync::Mutex::new(released));
    let waits = move || {
        let released = Arc::clone(&released);
        async move { tokio::task::block_in_place(|| released.lock().unwrap().recv().unwrap()) }
    };
    let request = send(&monitor, ROUTE, waits);
    eventually("it has an age", || age(ROUTE).is_some_and(|age| age > 1.0));
    release.send(()).unwrap();
    request.await.unwrap();
    eventually("it has ended", || age(ROUTE) == Some(0.0));
}

/// As a stream of events does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_waits_has_an_age() {
    const ROUTE: &str = "/body";
    let monitor = by_path().spawn().unwrap();
    let body = || http_body_util::StreamBody::new(futures_util::stream::pending());
    let respond = move |_: Request<()>| async move {
        type Frame = Result<http_body::Frame<bytes::Bytes>, Infallible>;
        let body: http_body_util::StreamBody<futures_util::stream::Pending<Frame>> = body();
        Ok::<_, Infallible>(Response::new(body))
    };
    let service = monitor.layer().layer(service_fn(respond));
    let response = service.oneshot(get(ROUTE)).await.unwrap();
    let read = tokio::spawn(http_body_util::BodyExt::collect(response.into_body()));
    eventually("it has an age", || age(ROUTE).is_some_and(|age| age > 1.0));
    read.abort();
    eventually("it is gone", || age(ROUTE) == Some(0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_and_requests_that_are_polled_have_no_age() {
    const ROUTE: &str = "/polled";
    let monitor = by_path().spawn().unwrap();
    let done = Arc::new(Notify::new());
    let task = tokio::spawn(monitor.instrument("idle", std::future::pending::<()>()));
    let notify = Arc::clone(&done);
    let request = send(&monitor, ROUTE, move || {
        let done = Arc::clone(&notify);
        async move {
            let mut done = std::pin::pin!(done.notified());
            let poll = Duration::from_millis(20);
            while tokio::time::timeout(poll, done.as_mut()).await.is_err() {}
        }
    });
    // A request beside it, which is not polled, shows that the ages have been updated.
    let beside = send(&monitor, "/beside", std::future::pending::<()>);
    eventually("the other one has an age", || age("/beside").is_some_and(|age| age > 3.0));
    // It has no answer yet, so it has a row only if it has an age.
    assert_eq!(age(ROUTE), None);
    let tasks = scrape().values(GAUGE, &[("route", "idle")]).count();
    assert_eq!(tasks, 0, "tasks are idle by nature");
    done.notify_one();
    request.await.unwrap();
    task.abort();
    beside.abort();
}

#[tokio::test]
async fn the_age_is_withdrawn_with_its_monitor() {
    const ROUTE: &str = "/withdrawn";
    let route_label = |_: &tower_stall::RouteRequest<'_>| Some(ROUTE.into());
    let monitor = builder().route_label(route_label).spawn().unwrap();
    let request = send(&monitor, ROUTE, std::future::pending::<()>);
    eventually("it has an age", || age(ROUTE).is_some_and(|age| age > 1.0));
    monitor.shutdown();
    eventually("it is withdrawn", || age(ROUTE).is_none_or(|age| age == 0.0));
    request.abort();
}
