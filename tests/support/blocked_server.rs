//! A server whose runtime a test stalls, and how long requests waited for that.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tower_stall::{RouteStats, StallMonitor};

use super::{builder_for, eventually, http_get, in_flight, stats};

/// For how long the route `/block` goes on to block its worker once it is told to end.
pub(crate) const BLOCKED: Duration = Duration::from_millis(400);
/// The longest tick of any kernel, which is the resolution of the waits.
const TICK: Duration = Duration::from_millis(10);

/// A server on a runtime, and a thread, of its own.
pub(crate) struct BlockedServer {
    pub(crate) addr: SocketAddr,
    pub(crate) monitor: StallMonitor,
    calls: Calls,
    end_block: Option<Sender<()>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The routes that were called, and when.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<(&'static str, Instant)>>>);

// === impl BlockedServer ===

impl BlockedServer {
    /// Serves by axum.
    pub(crate) fn start(runtime: Runtime) -> Self {
        Self::start_with(runtime, |listener, monitor, app| async move {
            axum::serve(monitor.listener(listener), app).await.unwrap();
        })
    }

    pub(crate) fn start_with<S: Future<Output = ()> + Send + 'static>(
        runtime: Runtime,
        serve: impl FnOnce(TcpListener, StallMonitor, Router) -> S,
    ) -> Self {
        let monitor = builder_for(&runtime).spawn().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        let (end_block, is_block_ended) = channel();
        let calls = Calls::default();
        let serve = serve(listener, monitor.clone(), app(&monitor, &calls, is_block_ended));
        let (stop, stopped) = oneshot::channel();
        let serve = async move {
            tokio::select! {
                () = serve => {}
                _ = stopped => {}
            }
        };
        let thread =
            thread::spawn(move || runtime.block_on(async { tokio::spawn(serve).await.unwrap() }));
        let (end_block, stop, thread) = (Some(end_block), Some(stop), Some(thread));
        Self { addr, monitor, calls, end_block, stop, thread }
    }

    /// Requests `/block` on another thread, and waits until it stalls the runtime.
    pub(crate) fn block(&self) -> JoinHandle<()> {
        let addr = self.addr;
        let client = thread::spawn(move || _ = http_get(addr, "/block"));
        self.wait_until_blocked();
        client
    }

    pub(crate) fn wait_until_blocked(&self) {
        eventually("the runtime is stalled", || in_flight(&self.monitor, "/block") == 1);
    }

    /// Lets the stall end after some time.
    pub(crate) fn end_block(&self) {
        self.end_block.as_ref().unwrap().send(()).unwrap();
    }

    /// Returns how long after a moment the route was called, each time.
    pub(crate) fn calls_after(&self, moment: Instant, route: &str) -> Vec<Duration> {
        let calls = self.calls.0.lock().unwrap();
        let of_route = calls.iter().filter(|(called, _)| *called == route);
        of_route.filter_map(|(_, at)| at.checked_duration_since(moment)).collect()
    }

    /// Returns what is known of the route after a number of its requests.
    pub(crate) fn stats_after(&self, route: &str, requests: u64) -> RouteStats {
        let current = || stats(&self.monitor, "GET", route);
        eventually("the requests are counted", || {
            current().is_some_and(|stats| stats.requests() >= requests && stats.in_flight() == 0)
        });
        current().unwrap()
    }

    /// Asserts that all requests of a route, which were sent at some moment, have waited until they
    /// were called.
    #[track_caller]
    pub(crate) fn assert_waited(&self, route: &str, sent: Instant) {
        let delays = self.calls_after(sent, route);
        let (wait, delay) = self.wait_and_delay(route, &delays);
        assert!(delays.iter().all(|&delay| delay >= BLOCKED), "no delay: {delays:?}");
        assert!(
            wait >= delay * 3 / 4 - TICK,
            "the wait of {route} was {wait:?}, the delay {delays:?}"
        );
    }

    /// Asserts that all requests of a route, which were sent at some moment or later, have waited no
    /// longer than until they were called.
    #[track_caller]
    pub(crate) fn assert_has_not_waited(&self, route: &str, sent: Instant) {
        let delays = self.calls_after(sent, route);
        self.wait_and_delay(route, &delays);
    }

    #[track_caller]
    fn wait_and_delay(&self, route: &str, delays: &[Duration]) -> (Duration, Duration) {
        let requests = delays.len() as u64;
        let stats = self.stats_after(route, requests);
        assert_eq!((stats.requests(), stats.socket_waits()), (requests, requests), "{route}");
        let (wait, delay) = (stats.total_socket_wait(), delays.iter().sum());
        let resolution = TICK * u32::try_from(requests).unwrap();
        assert!(
            wait <= delay + resolution,
            "the wait of {route} was {wait:?}, the delay {delays:?}"
        );
        (wait, delay)
    }
}

impl Drop for BlockedServer {
    fn drop(&mut self) {
        drop((self.stop.take(), self.end_block.take()));
        let _ = self.thread.take().unwrap().join();
    }
}

// === impl Calls ===

impl Calls {
    fn add(&self, route: &'static str) {
        self.0.lock().unwrap().push((route, Instant::now()));
    }
}

fn app(monitor: &StallMonitor, calls: &Calls, is_block_ended: Receiver<()>) -> Router {
    let is_block_ended = Arc::new(Mutex::new(is_block_ended));
    let block = async move || {
        let _ = is_block_ended.lock().unwrap().recv();
        thread::sleep(BLOCKED);
    };
    let answer = |route: &'static str| {
        let calls = calls.clone();
        get(async move || {
            calls.add(route);
            route
        })
    };
    Router::new()
        .route("/block", get(block))
        .route("/victim", answer("/victim"))
        .route("/other", answer("/other"))
        .route("/warm-up", answer("/warm-up"))
        .route("/upload", post(async |body: String| body))
        .layer(monitor.layer())
}
