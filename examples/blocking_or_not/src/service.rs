//! The service of one experiment, with the layer, on a runtime of its own.

use std::fmt;
use std::future::IntoFuture;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tower_stall::{Stall, StallMonitor};

use super::BoxError;
use super::clients;
use super::handlers::{self, App};
use super::scrape::Scrape;

/// A kind of tokio runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// A `current_thread` runtime.
    CurrentThread,
    /// A `multi_thread` runtime with this many workers.
    MultiThread(usize),
}

/// The settings of a service.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The runtime.
    pub flavor: Flavor,
    /// How long slow work takes.
    pub sleep: Duration,
    /// Whether the watchdog may rescue the I/O driver.
    pub rescue: bool,
    /// The maximum number of threads in the blocking pool; tokio's default is 512.
    pub blocking_threads: usize,
}

/// A running service. Dropping it shuts it down.
#[derive(Debug)]
pub struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) app: App,
    monitor: StallMonitor,
    /// The label `runtime` of its metrics.
    pub(crate) name: String,
    _shutdown: oneshot::Sender<()>,
}

// === impl Flavor ===

impl Flavor {
    /// Returns the number of worker threads.
    pub fn workers(self) -> usize {
        if let Self::MultiThread(workers) = self { workers } else { 1 }
    }

    /// Builds a runtime with at most this many threads in its blocking pool.
    ///
    /// # Errors
    ///
    /// Fails if tokio cannot create the runtime.
    pub fn runtime(self, blocking_threads: usize) -> io::Result<Runtime> {
        let mut builder = match self {
            Self::CurrentThread => Builder::new_current_thread(),
            Self::MultiThread(_) => Builder::new_multi_thread(),
        };
        builder.worker_threads(self.workers()).max_blocking_threads(blocking_threads);
        builder.thread_name("service").enable_all().build()
    }
}

impl fmt::Display for Flavor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CurrentThread => f.write_str("current-thread"),
            Self::MultiThread(1) => f.write_str("1 worker"),
            Self::MultiThread(workers) => write!(f, "{workers} workers"),
        }
    }
}

// === impl Service ===

impl Service {
    /// Starts a service that listens on an address.
    ///
    /// # Errors
    ///
    /// Fails if the address is in use, or if a runtime, thread or monitor cannot be created.
    pub fn start(setup: Setup, address: SocketAddr) -> Result<Self, BoxError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("lab-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        // Installed first: a recorder that is installed later misses what came before.
        metrics_address()?;
        let runtime = setup.flavor.runtime(setup.blocking_threads)?;
        let monitor = StallMonitor::builder()
            .runtime(runtime.handle().clone())
            .runtime_name(&name)
            .rescue(setup.rescue)
            .stack_signals(true)
            .spawn()?;
        let app = App::start(setup.sleep, monitor.clone())?;
        let stall = get(|State(monitor): State<StallMonitor>| async move { stall(&monitor) });
        let sentinel = Router::new().route(&sentinel_route(&name), stall);
        let routes = handlers::routes().with_state(app.clone());
        let routes = routes.merge(sentinel.with_state(monitor.clone())).layer(monitor.layer());
        let (address, shutdown) = serve(runtime, address, routes)?;
        Ok(Self { address, app, monitor, name, _shutdown: shutdown })
    }

    /// Returns the address of the service.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until all earlier stalls are reported, both as metrics and in the list of stalls, unless
    /// they wait for their stacks. To do so, causes a stall of its own, which ends after them.
    pub(crate) async fn flush(&self) -> Result<Scrape, BoxError> {
        let route = sentinel_route(&self.name);
        let labels = [("route", &*route)];
        let count = |metrics: &Scrape| metrics.sum("tower_stall_duration_seconds_count", &labels);
        let before = count(&self.scrape().await?);
        clients::get_once(self.address, &route).await?;
        while count(&self.scrape().await?) == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Scrapes again: an exporter reads its counters before its histograms, and both may change
        // in between.
        self.scrape().await
    }

    /// Ends the monitor, which reports all stalls first, also those that wait for their stacks.
    pub(crate) async fn end_monitor(&self) -> Result<Scrape, BoxError> {
        let monitor = self.monitor.clone();
        tokio::task::spawn_blocking(|| monitor.shutdown()).await?;
        self.scrape().await
    }

    pub(crate) async fn scrape(&self) -> Result<Scrape, BoxError> {
        Ok(Scrape(clients::get_once(metrics_address()?, "/metrics").await?))
    }

    /// Returns the stalls of the scenarios, finished or in progress.
    pub(crate) fn stalls(&self) -> Vec<Stall> {
        let sentinel = sentinel_route(&self.name);
        let stalls = self.monitor.recent_stalls().into_iter();
        stalls.filter(|stall| stall.route() != sentinel).collect()
    }
}

fn stall(monitor: &StallMonitor) {
    thread::sleep(monitor.stall_threshold() * 2);
}

fn sentinel_route(service: &str) -> String {
    format!("/sentinel-of-{service}")
}

/// Serves routes on a new thread until the returned sender is dropped. The thread also runs the
/// accept loop, like the main thread of a program with `#[tokio::main]`.
///
/// # Errors
///
/// Fails if the address is in use or the thread cannot be created.
pub fn serve(
    runtime: Runtime,
    address: SocketAddr,
    routes: Router,
) -> Result<(SocketAddr, oneshot::Sender<()>), BoxError> {
    let (shutdown, is_shut_down) = oneshot::channel();
    let (bound, is_bound) = mpsc::channel();
    let serve = async move {
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) => return drop(bound.send(Err(error))),
        };
        let _ = bound.send(listener.local_addr());
        tokio::select! {
            _ = axum::serve(listener, routes).into_future() => {}
            _ = is_shut_down => {}
        }
    };
    let run = move || {
        runtime.block_on(serve);
        // Does not wait for handlers, some of which never return.
        runtime.shutdown_background();
    };
    thread::Builder::new().name("service".into()).spawn(run)?;
    Ok((is_bound.recv()??, shutdown))
}

/// Returns the address of the metrics server, which all services of the process share. The first
/// call starts it.
///
/// # Errors
///
/// Fails if the server cannot be started.
pub fn metrics_address() -> Result<SocketAddr, BoxError> {
    static SERVER: OnceLock<Result<SocketAddr, String>> = OnceLock::new();
    let start = || {
        let server = tower_stall::prometheus::serve((Ipv4Addr::LOCALHOST, 0));
        server.map(|server| server.local_addr()).map_err(|error| error.to_string())
    };
    Ok(SERVER.get_or_init(start).clone()?)
}
