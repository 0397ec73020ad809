//! `GET /metrics`, and `GET /stalls`, on a thread of its own.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::{Builder, Runtime};

use super::recorder::Drain;
use super::stalls::Stalls;
use crate::stall::Stall;

/// How often samples of other libraries are drained where nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Serves metrics until the process ends. From [`serve`](super::serve).
#[derive(Clone, Debug)]
pub struct Server {
    local_addr: SocketAddr,
    stalls: Stalls,
}

/// What each connection answers from.
#[derive(Clone)]
struct Pages {
    metrics: Arc<Drain>,
    stalls: Stalls,
}

enum Page {
    Metrics,
    Stalls,
}

/// A bound address that does not answer yet.
pub(super) struct Listener {
    inner: TcpListener,
    local_addr: SocketAddr,
}

/// A serving thread that waits for the word. Without it, it ends.
pub(super) struct Start {
    go: mpsc::Sender<()>,
    thread: JoinHandle<()>,
    server: Server,
}

impl Server {
    /// The address it answers at, with the port that was free if port 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Answers `GET /stalls` too, with the reports of these stalls: those in progress first, then the latest.
    ///
    /// Text, for the person who comes from a dashboard and wants the line of code, also while every worker is held. `stalls` is asked at each
    /// request, on the serving thread; those of several calls follow one another. It is kept until the process ends, and with it whatever
    /// it holds. Without a call there is no such page. Whoever reaches the address reads paths and functions of your code.
    ///
    /// ```no_run
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = tower_stall::prometheus::serve(([127, 0, 0, 1], 9464))?;
    /// let monitor = tower_stall::StallMonitor::builder().spawn()?;
    /// let shown = monitor.clone();
    /// server.show_stalls(move || shown.recent_stalls());
    /// # Ok(()) }
    /// ```
    pub fn show_stalls(&self, stalls: impl Fn() -> Vec<Stall> + Send + Sync + 'static) {
        self.stalls.add(Box::new(stalls));
    }
}

impl Start {
    pub(super) fn go(self) -> Server {
        let _ = self.go.send(());
        self.server
    }

    /// Ends the thread and frees the address.
    pub(super) fn cancel(self) {
        drop(self.go);
        let _ = self.thread.join();
    }
}

impl Listener {
    pub(super) fn bind(addr: SocketAddr) -> io::Result<Self> {
        let inner = TcpListener::bind(addr)?;
        inner.set_nonblocking(true)?;
        Ok(Self { local_addr: inner.local_addr()?, inner })
    }

    pub(super) fn spawn(self, metrics: Arc<Drain>) -> io::Result<Start> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (go, word) = mpsc::channel();
        let server = Server { local_addr: self.local_addr, stalls: Stalls::default() };
        let pages = Pages { metrics, stalls: server.stalls.clone() };
        let listener = self.inner;
        let run = move || {
            if word.recv().is_ok() {
                answer(&runtime, listener, &pages);
            }
        };
        let thread = std::thread::Builder::new().name("tower-stall-metrics".into()).spawn(run)?;
        Ok(Start { go, thread, server })
    }
}

fn answer(runtime: &Runtime, listener: TcpListener, pages: &Pages) {
    runtime.block_on(async {
        // It was made non-blocking and this runtime has I/O: there is no other way to fail.
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        tokio::spawn(upkeep(pages.metrics.clone()));
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(connection(TokioIo::new(stream), pages.clone()))),
                // Out of file descriptors, most likely: wait for some to be closed.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
}

async fn upkeep(metrics: Arc<Drain>) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        metrics.run_upkeep();
    }
}

async fn connection(stream: TokioIo<tokio::net::TcpStream>, pages: Pages) {
    let service = service_fn(|request| {
        let response = respond(&request, &pages);
        async { Ok::<_, Infallible>(response) }
    });
    // A connection that breaks is its client's concern.
    let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(stream, service).await;
}

fn respond(request: &Request<Incoming>, pages: &Pages) -> Response<Full<Bytes>> {
    let page = match request.uri().path() {
        "/metrics" => Page::Metrics,
        "/stalls" if pages.stalls.are_shown() => Page::Stalls,
        _ => return plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n"),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "it is had by GET\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let (content, text) = match page {
        Page::Metrics => (METRICS, pages.metrics.render()),
        Page::Stalls => (TEXT, pages.stalls.text()),
    };
    let mut response = Response::new(Full::from(text));
    response.headers_mut().insert(CONTENT_TYPE, content);
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
