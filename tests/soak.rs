//! A service under mixed load for a long time, with stalls, panics, cancellations and faults, while
//! monitors come and go: no request is lost, and nothing grows.
//!
//! `./x soak` runs it for an hour.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, unsafe_code)]
#![cfg(all(target_os = "linux", feature = "axum", feature = "prometheus"))]

mod support;

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::routing::get;
use axum::{Router, response::Response};
use http::StatusCode;
use tower_http::catch_panic::CatchPanicLayer;
use tower_stall::StallMonitor;

use self::support::{DEADLINE, Random, eventually, http_get, in_own_process, runtime, scrape};

const CLIENTS: u64 = 4;
const PANIC: &str = "a panic of the soak test";
/// What the process may grow by from the second third of a run to the last, if that is long enough
/// for the arenas of the allocator to settle.
const MAX_GROWTH_KIB: u64 = 16 << 10;
const WARM_UP: u64 = 60;

/// What has happened so far.
#[derive(Default)]
struct Counts {
    /// The requests that have reached the layer.
    received: AtomicU64,
    monitors: AtomicU64,
    descriptor_faults: AtomicU64,
}

fn seconds() -> u64 {
    std::env::var("TOWER_STALL_SOAK_SECONDS").map_or(6, |seconds| seconds.parse().unwrap())
}

// === The service ===

fn app(monitor: &StallMonitor, counts: &Arc<Counts>) -> Router {
    let counts = Arc::clone(counts);
    let count = move |request: Request, next: Next| {
        counts.received.fetch_add(1, Ordering::Relaxed);
        async move { next.run(request).await }
    };
    Router::new()
        .route("/fast", get(|| async { "fast" }))
        .route("/wait", get(|| tokio::time::sleep(Duration::from_millis(1))))
        .route("/stream", get(|| async { stream() }))
        .route("/error", get(|| async { StatusCode::SERVICE_UNAVAILABLE }))
        .route("/panic", get(panicking))
        .route("/sleep", get(|| async { thread::sleep(Duration::from_millis(30)) }))
        .route("/compute", get(|| async { compute() }))
        .route("/never", get(std::future::pending::<()>))
        .layer(monitor.layer())
        .layer(from_fn(count))
        .layer(CatchPanicLayer::new())
}

fn stream() -> Response {
    let chunks = (0..3).map(|_| Ok::<_, Infallible>(Bytes::from_static(b"chunk")));
    Response::new(Body::from_stream(futures_util::stream::iter(chunks)))
}

async fn panicking() {
    tokio::task::yield_now().await;
    std::panic::panic_any(PANIC);
}

fn compute() {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(30) {
        std::hint::black_box(0);
    }
}

// === Its clients ===

/// Sends requests until `is_over`. Reconnects whenever the connection is closed.
fn send_requests(addr: SocketAddr, mut random: Random, is_over: &AtomicBool) {
    let mut connection = None;
    while !is_over.load(Ordering::Relaxed) {
        let stream = match connection.take() {
            Some(stream) => stream,
            None => connect(addr),
        };
        connection = send_one(stream, &mut random);
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    // Not possible while the process has no descriptor.
    let start = Instant::now();
    loop {
        match TcpStream::connect(addr) {
            Ok(stream) => return stream,
            Err(error) => assert!(start.elapsed() < DEADLINE, "{error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Sends one request, and returns the connection if it is still of use.
fn send_one(mut stream: TcpStream, random: &mut Random) -> Option<TcpStream> {
    let (method, path) = match random.below(2_000) {
        0 => ("GET", "/sleep"),
        1 => ("GET", "/compute"),
        2..10 => ("GET", "/panic"),
        10..20 => ("GET", "/error"),
        20..30 => ("POST", "/fast"),
        30..40 => ("GET", "/missing"),
        40..50 => ("GET", "/never"),
        50..150 => ("GET", "/wait"),
        150..250 => ("GET", "/stream"),
        _ => ("GET", "/fast"),
    };
    let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    if path == "/never" {
        thread::sleep(Duration::from_millis(2));
        return None;
    }
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut response = Vec::new();
    while !is_complete(&response) {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).unwrap() {
            0 => return None,
            length => response.extend(&buffer[..length]),
        }
    }
    Some(stream)
}

fn is_complete(response: &[u8]) -> bool {
    let text = String::from_utf8_lossy(response);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    match length {
        Some(length) => body.len() >= length.parse().unwrap(),
        None => body.ends_with("0\r\n\r\n"),
    }
}

// === Monitors that come and go, and faults ===

fn come_and_go(runtime: &tokio::runtime::Handle, counts: &Counts, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let builder = StallMonitor::builder().runtime(runtime.clone()).stack_signals(true);
        // Refused while the process has no descriptor.
        if let Ok(monitor) = builder.spawn() {
            let task =
                monitor.instrument("short", async { thread::sleep(Duration::from_millis(30)) });
            runtime.block_on(task);
            monitor.shutdown();
            counts.monitors.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Leaves the process without a free descriptor for 200 ms, again and again.
fn exhaust_descriptors(counts: &Counts, is_over: &AtomicBool) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointers are to limits.
    let set = |limit: &libc::rlimit| unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) };
    // SAFETY: as above.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    while !is_over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_secs(2));
        assert_eq!(set(&libc::rlimit { rlim_cur: 3, ..limit }), 0);
        thread::sleep(Duration::from_millis(200));
        assert_eq!(set(&limit), 0);
        counts.descriptor_faults.fetch_add(1, Ordering::Relaxed);
    }
}

// === What the process has ===

fn resident_kib() -> u64 {
    // Not possible while the process has no descriptor.
    let status = || std::fs::read_to_string("/proc/self/status").ok();
    let status = support::poll_until(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Returns the least resident memory within a time. From time to time, a monitor has read the debug
/// information.
fn least_resident_kib(time: Duration) -> u64 {
    let sample = |_| {
        thread::sleep(time / 30);
        resident_kib()
    };
    (0..30).map(sample).min().unwrap()
}

fn count(dir: &str) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

fn requests(monitor: &StallMonitor) -> u64 {
    let routes = monitor.routes();
    let requests = routes.iter().filter(|route| route.method() != "TASK");
    requests.map(tower_stall::RouteStats::requests).sum()
}

fn in_flight(monitor: &StallMonitor) -> u64 {
    monitor.routes().iter().map(tower_stall::RouteStats::in_flight).sum()
}

fn requests_in_the_text() -> u64 {
    let text = scrape();
    let all = text.sum("tower_stall_requests_total", &[]);
    let tasks = text.sum("tower_stall_requests_total", &[("method", "TASK")]);
    (all - tasks) as u64
}

#[test]
fn a_service_under_faults_loses_no_request_and_does_not_grow() {
    in_own_process(|| {
        hide_panics();
        let runtime = runtime(2);
        let (counts, is_over) = (Arc::<Counts>::default(), AtomicBool::new(false));
        support::install_recorder();
        let monitor = StallMonitor::builder().runtime(runtime.handle().clone());
        let monitor = monitor.stack_signals(true).spawn().unwrap();
        let app = app(&monitor, &counts);
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        let descriptors = count("/proc/self/fd");

        let mut memory = Vec::new();
        thread::scope(|scope| {
            for client in 1..=CLIENTS {
                let random = Random::new(client);
                let is_over = &is_over;
                scope.spawn(move || send_requests(addr, random, is_over));
            }
            scope.spawn(|| come_and_go(runtime.handle(), &counts, &is_over));
            scope.spawn(|| exhaust_descriptors(&counts, &is_over));
            memory =
                (0..3).map(|_| least_resident_kib(Duration::from_secs(seconds()) / 3)).collect();
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(http_get(addr, "/fast").body, "fast");
        eventually("no request is in flight", || in_flight(&monitor) == 0);
        let received = counts.received.load(Ordering::Relaxed);
        println!(
            "{received} requests, {} monitors, {} times without descriptors; at least {memory:?} KiB \
             in each third of the time",
            counts.monitors.load(Ordering::Relaxed),
            counts.descriptor_faults.load(Ordering::Relaxed),
        );
        assert_eq!(requests(&monitor), received);
        eventually("all are in the text", || requests_in_the_text() == received);
        if seconds() >= WARM_UP {
            assert!(memory[2] < memory[1] + MAX_GROWTH_KIB, "{memory:?}");
        }
        eventually("descriptors are closed", || count("/proc/self/fd") <= descriptors + 1);
    });
}

fn hide_panics() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref() != Some(&PANIC) {
            hook(info);
        }
    }));
}
