//! The service of one experiment, with the layer, on a runtime as wished.

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

use super::Failure;
use super::clients;
use super::handlers::{self, App};
use super::scrape::Scrape;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavor {
    CurrentThread,
    MultiThread(usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) flavor: Flavor,
    /// How long what is slow takes.
    pub(crate) nap: Duration,
    pub(crate) rescue: bool,
    /// Threads of the blocking pool; tokio's default is 512.
    pub(crate) blocking_threads: usize,
}

/// Serves until it is dropped.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) app: App,
    pub(crate) monitor: StallMonitor,
    /// The label `runtime` of its metrics.
    pub(crate) name: String,
    _end: oneshot::Sender<()>,
}

// === impl Flavor ===

impl Flavor {
    pub(crate) fn workers(self) -> usize {
        if let Self::MultiThread(workers) = self { workers } else { 1 }
    }

    /// A runtime that has this many threads for blocking work.
    pub(crate) fn runtime(self, blocking_threads: usize) -> io::Result<Runtime> {
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
    pub(crate) fn start(setup: Setup, address: SocketAddr) -> Result<Self, Failure> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("lab-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        // A late recorder would miss what came before it.
        metrics()?;
        let runtime = setup.flavor.runtime(setup.blocking_threads)?;
        let builder = StallMonitor::builder().runtime(runtime.handle().clone()).runtime_name(&name);
        let monitor = builder.rescue(setup.rescue).stack_signals(true).spawn()?;
        let app = App::start(setup.nap, monitor.clone())?;
        let end_route = get(|State(monitor): State<StallMonitor>| async move { stall(&monitor) });
        let routes = handlers::routes().with_state(app.clone());
        let routes = routes.merge(Router::new().route(&end_of(&name), end_route).with_state(monitor.clone()));
        let (address, end) = serve(runtime, address, routes.layer(monitor.layer()))?;
        Ok(Self { address, app, monitor, name, _end: end })
    }

    /// Returns when all that was seen so far is told of, in the list of stalls and in the metrics: what is asked for here is told last.
    pub(crate) async fn settle(&self) -> Result<Scrape, Failure> {
        let route = end_of(&self.name);
        let told = |metrics: &Scrape| metrics.sum("tower_stall_duration_seconds_count", &[("route", &route)]);
        let before = told(&self.scrape().await?);
        clients::ask_once(self.address, &route).await?;
        while told(&self.scrape().await?) == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Once more: an exporter reads its counters before its histograms, and both may move in between.
        self.scrape().await
    }

    pub(crate) async fn scrape(&self) -> Result<Scrape, Failure> {
        Ok(Scrape(clients::ask_once(metrics()?, "/metrics").await?))
    }

    /// Those of the scenarios, finished or going on.
    pub(crate) fn stalls(&self) -> Vec<Stall> {
        let end = end_of(&self.name);
        self.monitor.recent_stalls().into_iter().filter(|stall| stall.route() != end).collect()
    }
}

/// A stall of its own.
fn stall(monitor: &StallMonitor) {
    thread::sleep(monitor.stall_threshold() * 2);
}

fn end_of(service: &str) -> String {
    format!("/end-of-{service}")
}

/// Serves on a thread that accepts, as that of `#[tokio::main]` does, until the sender is dropped.
pub(crate) fn serve(
    runtime: Runtime,
    address: SocketAddr,
    routes: Router,
) -> Result<(SocketAddr, oneshot::Sender<()>), Failure> {
    let ((end, ended), (tell, told)) = (oneshot::channel(), mpsc::channel());
    let serve = async move {
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) => return drop(tell.send(Err(error))),
        };
        let _ = tell.send(listener.local_addr());
        tokio::select! {
            _ = axum::serve(listener, routes).into_future() => {}
            _ = ended => {}
        }
    };
    let run = move || {
        runtime.block_on(serve);
        // Handlers that are stuck stay so, and nobody waits for them.
        runtime.shutdown_background();
    };
    thread::Builder::new().name("service".into()).spawn(run)?;
    Ok((told.recv()??, end))
}

/// Where the metrics of all services of this process are served.
pub(crate) fn metrics() -> Result<SocketAddr, Failure> {
    static SERVER: OnceLock<Result<SocketAddr, String>> = OnceLock::new();
    let serve = || tower_stall::prometheus::serve((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string());
    Ok(SERVER.get_or_init(|| serve().map(|server| server.local_addr())).clone()?)
}
