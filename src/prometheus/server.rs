//! The HTTP server, on a thread of its own.
//!
//! Hand-written, although metrics-exporter-prometheus has a listener: `PrometheusBuilder::install`
//! spawns it on the current runtime if there is one, which is the runtime that stalls; it does not
//! expose the port that it bound; and it has no further pages.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::runtime::Builder;

use super::connections::{Activity, Connections, TrackedStream};
use super::recorder::Drain;
use super::renderings::Renderings;
use super::router::Router;
use super::stalls::StallsPage;
use crate::monitor::StallMonitor;

/// How often the samples of other libraries are drained if nothing scrapes.
const UPKEEP: Duration = Duration::from_secs(5);
/// How often connections are checked if none is opened.
const CHECK: Duration = Duration::from_secs(1);
/// How long a connection waits for all of the next request's head.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A server of metrics that runs until the process ends. Returned by [`serve`](super::serve).
///
/// ```
/// use tower_stall::prometheus::{Server, serve};
///
/// let server: Server = serve(([127, 0, 0, 1], 0))?;
/// println!("http://{}/metrics", server.local_addr());
/// # Ok::<(), tower_stall::prometheus::ServeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Server {
    local_addr: SocketAddr,
    stalls: StallsPage,
}

/// A bound address that does not respond yet.
pub(super) struct Listener {
    inner: TcpListener,
    local_addr: SocketAddr,
}

/// A thread that waits for the start. It ends if it is cancelled instead.
pub(super) struct PendingServer {
    start: mpsc::Sender<()>,
    thread: JoinHandle<()>,
    server: Server,
}

// === impl Server ===

impl Server {
    /// Returns the address that the server is bound to, with the actual port if port 0 was
    /// requested.
    ///
    /// ```
    /// let server = tower_stall::prometheus::serve(([127, 0, 0, 1], 0))?;
    /// assert_ne!(server.local_addr().port(), 0);
    /// # Ok::<(), tower_stall::prometheus::ServeError>(())
    /// ```
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves the reports of a monitor at `GET /stalls`, as plain text: those in progress first,
    /// then the latest.
    ///
    /// The page is rendered at each request, on the server's thread, so it responds while every
    /// worker is stalled. Several monitors are shown one after the other. The server does not keep
    /// a monitor alive; the reports of one that is gone are not shown. Without a call there is no
    /// such page.
    ///
    /// The page shows paths and function names of your code to every client that can reach the
    /// address.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let monitor = tower_stall::StallMonitor::builder().spawn()?;
    /// tower_stall::prometheus::serve(([127, 0, 0, 1], 0))?.show(&monitor);
    /// # Ok(()) }
    /// ```
    pub fn show(&self, monitor: &StallMonitor) {
        self.stalls.add(monitor);
    }
}

// === impl PendingServer ===

impl PendingServer {
    pub(super) fn start(self) -> Server {
        let _ = self.start.send(());
        self.server
    }

    /// Ends the thread and releases the address.
    pub(super) fn cancel(self) {
        drop(self.start);
        let _ = self.thread.join();
    }
}

// === impl Listener ===

impl Listener {
    pub(super) fn bind(addr: SocketAddr) -> io::Result<Self> {
        let inner = TcpListener::bind(addr)?;
        inner.set_nonblocking(true)?;
        Ok(Self { local_addr: inner.local_addr()?, inner })
    }

    pub(super) fn spawn(self, metrics: Arc<Drain>) -> io::Result<PendingServer> {
        let (start, started) = mpsc::channel();
        let (built, is_built) = mpsc::channel();
        let server = Server { local_addr: self.local_addr, stalls: StallsPage::default() };
        let (listener, stalls) = (self.inner, server.stalls.clone());
        // The runtime belongs to the thread: to drop one on a thread of another runtime is an error.
        let run = move || match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let _ = built.send(Ok(()));
                if started.recv().is_ok() {
                    runtime.block_on(accept(listener, metrics, stalls));
                }
            }
            Err(error) => drop(built.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("tower-stall-metrics".into()).spawn(run)?;
        is_built.recv().unwrap_or_else(|error| Err(io::Error::other(error)))?;
        Ok(PendingServer { start, thread, server })
    }
}

async fn accept(listener: TcpListener, metrics: Arc<Drain>, stalls: StallsPage) {
    // Cannot fail: the socket is non-blocking, and this runtime has I/O.
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    tokio::spawn(run_upkeep(Arc::clone(&metrics)));
    let connections = Connections::default();
    let page = stalls.clone();
    let router = Router {
        metrics: Renderings::new(move || metrics.render(), connections.clone()),
        stalls,
        stalls_page: Renderings::new(move || page.render(), connections.clone()),
    };
    loop {
        match tokio::time::timeout(CHECK, listener.accept()).await {
            Ok(Ok((stream, _))) => {
                if connections.make_room() {
                    let activity = Activity::new();
                    let tracked = TrackedStream::new(stream, Arc::clone(&activity));
                    let connection = serve_connection(tracked, router.clone());
                    connections.add(activity, tokio::spawn(connection).abort_handle());
                }
                // A connection that is closed holds its file until its task is dropped.
                tokio::task::yield_now().await;
            }
            // Most likely out of file descriptors: waits for some to be closed.
            Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(_elapsed) => {}
        }
        connections.close_expired(Instant::now());
    }
}

async fn run_upkeep(metrics: Arc<Drain>) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        metrics.run_upkeep();
    }
}

async fn serve_connection(stream: TrackedStream<TcpStream>, router: Router) {
    let is_loopback = stream.get_ref().local_addr().is_ok_and(|addr| addr.ip().is_loopback());
    let (router, activity) = (&router, Arc::clone(stream.activity()));
    let service = service_fn(|request| {
        activity.begin_wait();
        async move { Ok::<_, Infallible>(router.respond(&request, is_loopback).await) }
    });
    // The error of a connection is of no concern to the server.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
