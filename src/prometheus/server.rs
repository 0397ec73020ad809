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
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::{Builder, Runtime};

use super::recorder::Drain;
use super::router::Router;
use super::stalls::StallsPage;
use crate::monitor::StallMonitor;

/// How often the samples of other libraries are drained if nothing scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

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
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (start, started) = mpsc::channel();
        let server = Server { local_addr: self.local_addr, stalls: StallsPage::default() };
        let router = Router { metrics, stalls: server.stalls.clone() };
        let listener = self.inner;
        let run = move || {
            if started.recv().is_ok() {
                accept(&runtime, listener, &router);
            }
        };
        let thread = std::thread::Builder::new().name("tower-stall-metrics".into()).spawn(run)?;
        Ok(PendingServer { start, thread, server })
    }
}

fn accept(runtime: &Runtime, listener: TcpListener, router: &Router) {
    runtime.block_on(async {
        // Cannot fail: the socket is non-blocking, and this runtime has I/O.
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        tokio::spawn(run_upkeep(Arc::clone(&router.metrics)));
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve_connection(stream, router.clone()))),
                // Most likely out of file descriptors: waits for some to be closed.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
}

async fn run_upkeep(metrics: Arc<Drain>) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        metrics.run_upkeep();
    }
}

async fn serve_connection(stream: tokio::net::TcpStream, router: Router) {
    let service = service_fn(|request| {
        let response = router.respond(&request);
        async { Ok::<_, Infallible>(response) }
    });
    // The error of a connection is of no concern to the server.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
