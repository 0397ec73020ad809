//! Tests that a report says who was delayed by the stall, and by how much: compared with what the
//! delayed requests measure themselves.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(feature = "axum")]

mod support;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tower_stall::{Stall, StallMonitor};

use self::support::{
    current_thread_runtime, ended, eventually, http_get, in_flight, in_progress, monitor_for,
    poll_until, runtime, stats,
};

const BLOCK: Duration = Duration::from_millis(300);
const VICTIMS: usize = 3;

/// What keeps the worker busy.
#[derive(Clone, Copy, Debug)]
enum Culprit {
    Blocked,
    Cpu,
    Body,
    Task,
}

/// Requests that wait to be woken, and what they measured from then on.
#[derive(Clone, Default)]
struct Victims {
    wake: Arc<Notify>,
    woken_at: Arc<Mutex<Option<Instant>>>,
    delays: Arc<Mutex<Vec<Duration>>>,
}

struct App {
    monitor: StallMonitor,
    addr: SocketAddr,
    victims: Victims,
}

impl Victims {
    async fn wait(self) {
        self.wake.notified().await;
        let woken_at = self.woken_at.lock().unwrap().unwrap();
        self.delays.lock().unwrap().push(woken_at.elapsed());
    }

    fn wake(&self) {
        *self.woken_at.lock().unwrap() = Some(Instant::now());
        self.wake.notify_waiters();
    }

    fn delays(&self) -> Vec<Duration> {
        self.delays.lock().unwrap().clone()
    }
}

impl App {
    fn new(runtime: Runtime) -> Self {
        let victims = Victims::default();
        let monitor = monitor_for(&runtime);
        let victim = victims.clone();
        let app = Router::new()
            .route("/wait", get(move || victim.wait()))
            .route("/blocked", get(|| async { thread::sleep(BLOCK) }))
            .route("/cpu", get(|| async { compute() }))
            .route("/body", get(|| async { axum::body::Body::new(BlockingBody) }))
            .route("/neutral", get(|| async { "neutral" }))
            .layer(monitor.layer())
            .route("/task", get(|| async { drop(tokio::spawn(async { thread::sleep(BLOCK) })) }));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        let listener = monitor.listener(listener);
        // Drives a current-thread runtime, too.
        thread::spawn(move || runtime.block_on(async { axum::serve(listener, app).await }));
        http_get(addr, "/neutral");
        Self { monitor, addr, victims }
    }

    /// Lets requests wait, wakes them during a stall, and returns the report of the stall.
    fn stall(&self, culprit: Culprit) -> Stall {
        let addr = self.addr;
        let waiting: Vec<_> =
            (0..VICTIMS).map(|_| thread::spawn(move || http_get(addr, "/wait"))).collect();
        eventually("the victims wait", || in_flight(&self.monitor, "/wait") == VICTIMS as u64);
        let path = culprit.path();
        let stalling = thread::spawn(move || http_get(addr, path));
        eventually("the stall is in progress", || !in_progress(&self.monitor).is_empty());
        self.victims.wake();
        waiting.into_iter().for_each(|victim| drop(victim.join().unwrap()));
        stalling.join().unwrap();
        let report = || ended(&self.monitor).into_iter().find(|stall| !stall.delayed().is_empty());
        poll_until(report).unwrap()
    }

    fn delay_caused(&self, method: &str, route: &str) -> Duration {
        stats(&self.monitor, method, route).map_or(Duration::ZERO, |stats| stats.delay_caused())
    }
}

impl Culprit {
    fn path(self) -> &'static str {
        match self {
            Self::Blocked => "/blocked",
            Self::Cpu => "/cpu",
            Self::Body => "/body",
            Self::Task => "/task",
        }
    }

    /// Returns the method and the route that a report names.
    fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::Task => ("TASK", "unattributed"),
            measured => ("GET", measured.path()),
        }
    }
}

struct BlockingBody;

impl http_body::Body for BlockingBody {
    type Data = axum::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        thread::sleep(BLOCK);
        std::task::Poll::Ready(None)
    }
}

fn compute() {
    let start = Instant::now();
    while start.elapsed() < BLOCK {
        std::hint::spin_loop();
    }
}

/// Checks the report of a stall on a runtime with one worker, on which all delays are its own.
fn check(runtime: Runtime, culprit: Culprit) {
    let app = App::new(runtime);
    let stall = app.stall(culprit);
    let (method, route) = culprit.row();
    assert_eq!((stall.method(), stall.route()), (method, route), "{stall:#}");
    let [delayed] = stall.delayed() else { panic!("{stall:#}") };
    assert_eq!((delayed.method(), delayed.route()), ("GET", "/wait"), "{stall:#}");
    assert_eq!(delayed.requests(), VICTIMS as u64, "{stall:#}");
    let host = stall.run_queue_time() + stall.stopped_time();
    let measured: Duration = app.victims.delays().iter().sum();
    let found = stall.delay_caused();
    // What the host has added, and what a victim measures after its poll began, is not the stall's.
    // The two have clocks of their own.
    assert!(found <= measured * 101 / 100, "{found:?} of {measured:?}: {stall:#}");
    assert!(found + host * VICTIMS as u32 >= measured * 9 / 10, "{found:?} of {measured:?}");
    assert_eq!(app.delay_caused(method, route), found);
    assert_eq!(app.delay_caused("GET", "/neutral"), Duration::ZERO);
    assert!(format!("{stall:#}").contains("delayed 3 requests by "), "{stall:#}");
    let suffered = stats(&app.monitor, "GET", "/wait").unwrap().delay_suffered();
    assert!(suffered >= found, "{suffered:?} < {found:?}");
}

#[test]
fn a_blocked_handler_has_delayed_what_was_ready() {
    check(runtime(1), Culprit::Blocked);
}

#[test]
fn a_computing_handler_has_delayed_what_was_ready() {
    check(runtime(1), Culprit::Cpu);
}

#[test]
fn a_body_has_delayed_what_was_ready() {
    check(runtime(1), Culprit::Body);
}

#[test]
fn unmeasured_code_has_delayed_what_was_ready() {
    check(runtime(1), Culprit::Task);
}

#[test]
fn on_a_current_thread_runtime_all_delays_are_found() {
    check(current_thread_runtime(), Culprit::Blocked);
}

/// The two clients of the question that this crate began with: the second one has waited in a
/// socket, on a connection that it opened during the stall.
#[cfg(target_os = "linux")]
#[test]
fn the_second_client_has_waited_for_the_first() {
    for runtime in [current_thread_runtime(), runtime(1)] {
        let app = App::new(runtime);
        let addr = app.addr;
        let first = thread::spawn(move || http_get(addr, "/blocked"));
        eventually("the stall is in progress", || !in_progress(&app.monitor).is_empty());
        let sent = Instant::now();
        http_get(addr, "/neutral");
        let measured = sent.elapsed();
        first.join().unwrap();
        let report = || ended(&app.monitor).into_iter().find(|stall| !stall.delayed().is_empty());
        let stall = poll_until(report).unwrap();
        assert_eq!(stall.route(), "/blocked");
        let [delayed] = stall.delayed() else { panic!("{stall:#}") };
        assert_eq!((delayed.route(), delayed.requests()), ("/neutral", 1), "{stall:#}");
        let host = stall.run_queue_time() + stall.stopped_time();
        let found = stall.delay_caused();
        // The kernel counts in ticks of up to 10 ms.
        let tick = Duration::from_millis(10);
        assert!(found <= measured + tick, "{found:?} of {measured:?}: {stall:#}");
        assert!(found + host + tick >= measured * 9 / 10, "{found:?} of {measured:?}: {stall:#}");
    }
}

#[test]
fn a_stall_that_delays_nobody_says_so() {
    let app = App::new(runtime(1));
    http_get(app.addr, "/blocked");
    let report = poll_until(|| ended(&app.monitor).pop()).unwrap();
    assert!(report.delayed().is_empty() && report.delay_caused().is_zero(), "{report:#}");
}
