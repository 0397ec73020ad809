//! A test that one blocked worker does not freeze an application whose other workers are idle: over real kept-alive sockets, on 2 and
//! 4 workers, with the rescue and without.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]
#![cfg(feature = "axum")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use tokio::runtime::{Builder, Runtime};
use tower_stall::{Stall, StallMonitor};

const BLOCK: Duration = Duration::from_millis(500);

struct App {
    runtime: Runtime,
    monitor: StallMonitor,
    addr: SocketAddr,
    stalls: mpsc::Receiver<Stall>,
}

impl App {
    fn new(workers: usize, rescue: bool) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap();
        let (told, stalls) = mpsc::channel();
        let builder = StallMonitor::builder().runtime(runtime.handle().clone()).rescue(rescue);
        let monitor = builder.on_stall(move |stall| drop(told.send(stall.clone()))).spawn().unwrap();
        let app = Router::new()
            .route("/block", get(|| async { thread::sleep(BLOCK) }))
            .route("/hello", get(|| async { "hello" }))
            .layer(monitor.layer());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { runtime, monitor, addr, stalls }
    }

    /// One blocker on a kept-alive connection, then fresh connections beside it: the slowest answer, and the stall.
    fn trial(&self) -> (Duration, Stall) {
        let mut kept_alive = TcpStream::connect(self.addr).unwrap();
        ask(&mut kept_alive, "/hello");
        let blocker = thread::spawn(move || ask(&mut kept_alive, "/block"));
        self.wait_until_blocked();
        let addr = self.addr;
        let hello = move || {
            let asked = Instant::now();
            ask(&mut TcpStream::connect(addr).unwrap(), "/hello");
            asked.elapsed()
        };
        let victims: Vec<_> = (0..4).map(|_| thread::spawn(hello)).collect();
        let slowest = victims.into_iter().map(|victim| victim.join().unwrap()).max().unwrap();
        blocker.join().unwrap();
        let mut stalls = std::iter::repeat_with(|| self.stalls.recv_timeout(Duration::from_secs(30)).unwrap());
        (slowest, stalls.find(|stall| stall.route() == "/block" && !stall.is_in_progress()).unwrap())
    }

    fn wait_until_blocked(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.monitor.recent_stalls().iter().any(Stall::is_in_progress) {
            assert!(Instant::now() < deadline, "the stall is not seen");
            thread::yield_now();
        }
    }

    fn end(self) {
        drop(self.monitor);
        self.runtime.shutdown_background();
    }
}

fn ask(stream: &mut TcpStream, path: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..length]));
}

/// How many of the trials were frozen, and what was told of each.
fn trials(workers: usize, rescue: bool, count: usize) -> (usize, Vec<Stall>) {
    let app = App::new(workers, rescue);
    let (slowest, stalls): (Vec<_>, Vec<_>) = (0..count).map(|_| app.trial()).unzip();
    app.end();
    println!("{workers} workers, rescue {rescue}: slowest answers beside the blocker {slowest:?}");
    (slowest.into_iter().filter(|&slowest| slowest > BLOCK / 2).count(), stalls)
}

#[test]
fn with_rescue_nobody_waits_for_the_blocker() {
    for workers in [2, 4] {
        let (frozen, stalls) = trials(workers, true, 6);
        assert_eq!(frozen, 0, "{workers} workers");
        let rescued = stalls.iter().filter(|stall| stall.is_rescued()).count();
        assert!(rescued >= 3, "{workers} workers: {stalls:#?}");
        assert!(stalls.iter().all(|stall| stall.is_io_starved() || !stall.is_rescued()));
    }
}

#[test]
fn without_rescue_everybody_waits_and_the_report_says_why() {
    for workers in [2, 4] {
        let (frozen, stalls) = trials(workers, false, 6);
        assert!(frozen >= 3, "{workers} workers: {frozen} of 6 frozen");
        let starved = stalls.iter().filter(|stall| stall.is_io_starved()).count();
        assert!(starved >= frozen, "{workers} workers: {stalls:#?}");
        assert!(!stalls.iter().any(Stall::is_rescued));
    }
}

#[test]
fn a_stall_beside_workers_that_look_after_io_starves_nobody() {
    let runtime = Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let (told, stalls) = mpsc::channel();
    let builder = StallMonitor::builder().runtime(runtime.handle().clone()).rescue(false);
    let monitor = builder.on_stall(move |stall| drop(told.send(stall.clone()))).spawn().unwrap();
    // Another worker is kept going, and so comes by the driver all the time.
    let ticking = runtime.spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
    let is_starved = |_| {
        let task = monitor.instrument("block", async { thread::sleep(Duration::from_millis(60)) });
        runtime.block_on(runtime.spawn(task)).unwrap();
        stalls.recv_timeout(Duration::from_secs(30)).unwrap().is_io_starved()
    };
    // A machine with too much to do may keep that worker from its core for once.
    assert!(!(0..20).all(is_starved), "always starved");
    ticking.abort();
    drop(monitor);
    runtime.shutdown_background();
}
