//! Tests of background tasks, on every kind of runtime.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(all(feature = "axum", feature = "prometheus"))]

mod support;

use std::convert::Infallible;
use std::future::pending;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Empty;
use support::{
    Script, Step, assert_outcomes, builder, by_path, current_thread_runtime, eventually, get,
    in_flight, runtime, scrape, stats,
};
use tokio::runtime::Runtime;
use tokio::task::{LocalSet, yield_now};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_stall::{StallMonitor, StallService};

type Reply = Response<Script>;

/// Returns a task's requests, requests in flight, and polls.
fn task_stats(monitor: &StallMonitor, name: &str) -> Option<(u64, u64, u64)> {
    stats(monitor, "TASK", name).map(|stats| (stats.requests(), stats.in_flight(), stats.polls()))
}

/// Is pending a number of times.
async fn yields(times: usize) {
    for _ in 0..times {
        yield_now().await;
    }
}

/// Returns a measured service whose future is ready at its second poll.
fn service(
    monitor: &StallMonitor,
) -> StallService<impl Service<Request<()>, Response = Reply, Error = Infallible> + Clone> {
    let work = |_| async {
        yield_now().await;
        Script::new([Step::Data(1)]).response()
    };
    monitor.layer().layer(service_fn(work))
}

/// It is in flight from `instrument` on, each of its polls is counted, and it ends as a `2xx` of
/// the method `TASK`.
#[tokio::test]
async fn a_task_is_measured_from_start_to_end() {
    let monitor = builder().spawn().unwrap();
    let mut two = Box::pin(monitor.instrument("task/end", async {
        pend_once().await;
        pend_once().await;
        7
    }));
    assert_eq!(task_stats(&monitor, "task/end"), Some((1, 1, 0)));
    let mut polled = task::spawn(two.as_mut());
    assert_pending!(polled.poll());
    assert_pending!(polled.poll());
    assert_eq!(task_stats(&monitor, "task/end"), Some((1, 1, 2)));
    assert_eq!(assert_ready!(polled.poll()), 7);
    // It ends when it completes, not when it is dropped.
    assert_eq!(task_stats(&monitor, "task/end"), Some((1, 0, 3)));
    assert_outcomes("task/end", &[("2xx", 1)]);
    assert!(
        scrape().has("tower_stall_requests_total", &[("method", "TASK"), ("route", "task/end")])
    );
    drop(two);
    assert_eq!(task_stats(&monitor, "task/end"), Some((1, 0, 3)));
}

/// Is pending once, and wakes nothing.
async fn pend_once() {
    let mut was_pending = false;
    std::future::poll_fn(|_| {
        if std::mem::replace(&mut was_pending, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[tokio::test]
async fn a_running_task_is_in_flight_in_the_text() {
    let monitor = builder().spawn().unwrap();
    let task = monitor.instrument("task/alive", pending::<()>());
    eventually("the task is in flight", || scrape().in_flight("task/alive") == 1);
    drop(task);
    eventually("the task is not in flight", || scrape().in_flight("task/alive") == 0);
}

/// It does not matter whether the task was polled.
#[tokio::test]
async fn a_dropped_task_is_cancelled() {
    let monitor = builder().spawn().unwrap();
    drop(monitor.instrument("task/dropped", pending::<()>()));
    let mut polled = task::spawn(monitor.instrument("task/dropped", pending::<()>()));
    assert_pending!(polled.poll());
    drop(polled);
    let aborted = tokio::spawn(monitor.instrument("task/dropped", pending::<()>()));
    aborted.abort();
    assert!(aborted.await.unwrap_err().is_cancelled());
    assert_outcomes("task/dropped", &[("cancelled", 3)]);
}

#[tokio::test]
async fn a_panicking_task_is_panicked() {
    let monitor = builder().spawn().unwrap();
    let task = tokio::spawn(monitor.instrument("task/panic", async { panic!("in the task") }));
    assert!(task.await.unwrap_err().is_panic());
    assert_outcomes("task/panic", &[("panicked", 1)]);
}

/// Each request is measured by itself, like those of a connection, and so is the task.
#[tokio::test]
async fn requests_inside_a_task_are_measured() {
    let monitor = by_path().spawn().unwrap();
    let service = service(&monitor);
    let connection = async {
        for _ in 0..3 {
            drop(service.clone().oneshot(get("/task/request")).await);
        }
    };
    monitor.instrument("task/connection", connection).await;
    let request = stats(&monitor, "GET", "/task/request").unwrap();
    // The call and two polls, each.
    assert_eq!((request.requests(), request.in_flight(), request.polls()), (3, 0, 9));
    assert_eq!(task_stats(&monitor, "task/connection"), Some((1, 0, 4)));
    assert_outcomes("/task/request", &[("cancelled", 3)]);
    assert_outcomes("task/connection", &[("2xx", 1)]);
}

#[tokio::test]
async fn tasks_inside_requests_and_tasks_are_measured() {
    let monitor = by_path().spawn().unwrap();
    let inner = monitor.clone();
    let work = move |_| {
        let task = inner.instrument("task/outer", inner.instrument("task/inner", yields(1)));
        async {
            task.await;
            Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
        }
    };
    monitor.layer().layer(service_fn(work)).oneshot(get("/task/around")).await.unwrap();
    assert_eq!(task_stats(&monitor, "task/outer"), Some((1, 0, 2)));
    assert_eq!(task_stats(&monitor, "task/inner"), Some((1, 0, 2)));
    assert_outcomes("/task/around", &[("2xx", 1)]);
}

/// Short polls are not told apart, and a nested one is not the longest of those.
#[tokio::test]
async fn the_longest_poll_is_an_upper_bound_of_short_polls() {
    let monitor = builder().spawn().unwrap();
    let inner = monitor.instrument("longest/inner", async {});
    monitor.instrument("longest/outer", inner).await;
    let stats = stats(&monitor, "TASK", "longest/inner").unwrap();
    assert_eq!(stats.polls(), 1);
    assert!(stats.longest_poll() >= Duration::from_micros(100), "{stats:?}");
    assert!(stats.poll_quantile(0.5).unwrap() >= Duration::from_micros(100), "{stats:?}");
}

#[tokio::test]
async fn a_task_outlives_its_monitor() {
    let monitor = builder().spawn().unwrap();
    let task = monitor.instrument("task/orphan", async {
        yields(2).await;
        7
    });
    drop(monitor);
    assert_eq!(task.await, 7);
}

// === Runtimes ===

/// Serves a request and runs a task, and checks that both are counted.
async fn measure(monitor: &StallMonitor, path: &str, name: &str) {
    drop(service(monitor).oneshot(get(path)).await.unwrap());
    monitor.instrument(name, yields(2)).await;
    let request = stats(monitor, "GET", path).unwrap();
    assert_eq!((request.requests(), request.in_flight(), request.polls()), (1, 0, 3));
    assert_eq!(task_stats(monitor, name), Some((1, 0, 3)));
}

fn workers(runtime: &str) -> u64 {
    scrape().sum("tower_stall_workers", &[("runtime", runtime)]) as u64
}

#[test]
fn a_current_thread_runtime_is_measured() {
    let runtime = current_thread_runtime();
    runtime.block_on(async {
        let monitor = by_path().runtime_name("one").spawn().unwrap();
        measure(&monitor, "/runtime/one", "task/one").await;
        assert_outcomes("task/one", &[("2xx", 1)]);
        assert_eq!(workers("one"), 1);
    });
}

#[test]
fn a_multi_thread_runtime_is_measured() {
    let runtime = runtime(3);
    let monitor = by_path().runtime(runtime.handle().clone()).runtime_name("many").spawn().unwrap();
    let tasks: Vec<_> =
        (0..30).map(|_| runtime.spawn(monitor.instrument("task/many", yields(9)))).collect();
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    assert_eq!(task_stats(&monitor, "task/many"), Some((30, 0, 300)));
    runtime.block_on(measure(&monitor, "/runtime/many", "task/many/more"));
    assert_outcomes("task/many", &[("2xx", 30)]);
    assert_eq!(workers("many"), 3);
}

#[test]
fn a_local_set_is_measured() {
    let runtime = current_thread_runtime();
    LocalSet::new().block_on(&runtime, async {
        let monitor = by_path().runtime_name("local").spawn().unwrap();
        let rc = Rc::new(());
        let local = monitor.instrument("task/local/rc", async move {
            yields(1).await;
            drop(rc);
        });
        tokio::task::spawn_local(local).await.unwrap();
        assert_eq!(task_stats(&monitor, "task/local/rc"), Some((1, 0, 2)));
        measure(&monitor, "/runtime/local", "task/local").await;
    });
}

/// Their series differ by the label `runtime`, and each monitor counts only its own requests.
#[test]
fn two_runtimes_have_separate_monitors() {
    let (small, big) = (runtime(1), runtime(2));
    let monitor = |name, of: &Runtime| {
        by_path().runtime(of.handle().clone()).runtime_name(name).spawn().unwrap()
    };
    let (of_small, of_big) = (monitor("small", &small), monitor("big", &big));
    small.block_on(measure(&of_small, "/runtime/small", "task/small"));
    big.block_on(measure(&of_big, "/runtime/big", "task/big"));
    eventually("both are in the text", || (workers("small"), workers("big")) == (1, 2));
    for (name, workers) in [("small", 1), ("big", 2)] {
        eventually("the lag of each is in the text", || lag_samples(name) > 0);
        let now = scrape();
        let busy = |worker: usize| {
            now.has(
                "tower_stall_worker_busy_ratio",
                &[("runtime", name), ("worker", &worker.to_string())],
            )
        };
        assert!((0..workers).all(busy) && !busy(workers), "{name}");
    }
    assert_eq!(in_flight(&of_small, "/runtime/big"), 0);
    assert!(stats(&of_small, "GET", "/runtime/big").is_none());
    assert!(stats(&of_big, "GET", "/runtime/small").is_none());
    assert_outcomes("/runtime/small", &[("cancelled", 1)]);
    assert_outcomes("/runtime/big", &[("cancelled", 1)]);
}

fn lag_samples(runtime: &str) -> u64 {
    scrape().sum("tower_stall_lag_seconds_count", &[("runtime", runtime)]) as u64
}
