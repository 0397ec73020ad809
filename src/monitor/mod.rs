//! The handle that users hold, and its builder.

mod builder;
mod route_stats;
#[cfg(feature = "prometheus")]
mod weak;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use self::builder::StallMonitorBuilder;
pub use self::route_stats::RouteStats;
#[cfg(feature = "prometheus")]
pub(crate) use self::weak::WeakMonitor;

use crate::error::Error;
#[cfg(feature = "axum")]
use crate::layer::StallListener;
use crate::layer::{Descriptor, Instrumented, SocketWaitLayer, StallIo, StallLayer};
use crate::report::StallBuilder;
use crate::request::RequestGuard;
use crate::stall::Stall;
use crate::threads::MonitorGuard;

/// Watches one runtime, and measures the services and tasks that it wraps.
///
/// A handle: clones are cheap and refer to the same monitor. Its threads and tasks stop in the
/// background once the last handle, layer and service has been dropped, or at
/// [`shutdown`](Self::shutdown). A handle in an [`on_stall`](StallMonitorBuilder::on_stall) hook
/// therefore keeps the monitor alive.
///
/// ```
/// use tower_stall::StallMonitor;
///
/// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
/// let monitor = StallMonitor::builder().spawn()?;
/// let handle = tokio::spawn(monitor.instrument("import", async { 42 }));
/// assert_eq!(handle.await.unwrap(), 42);
/// assert_eq!(monitor.routes()[0].requests(), 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a monitor stops when its last handle, layer and service are dropped"]
pub struct StallMonitor {
    guard: Arc<MonitorGuard>,
}

impl StallMonitor {
    /// How long [`shutdown`](Self::shutdown) waits.
    const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

    /// Returns a builder with default settings, which are listed in
    /// [`guide::configuration`](crate::guide::configuration).
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// let monitor = tower_stall::StallMonitor::builder().spawn()?;
    /// # Ok(()) }
    /// ```
    pub fn builder() -> StallMonitorBuilder {
        StallMonitorBuilder::new()
    }

    /// Returns a layer that measures the requests of the services that it wraps.
    ///
    /// A request is counted once, however many layers of one monitor it passes through: the
    /// outermost measures it. The same applies to a request that a handler sends to a measured
    /// service within its own poll. A middleware between two such layers that moves the request to
    /// another task, such as `tower::buffer`, hides the outer layer from the inner one; both then
    /// count.
    ///
    /// ```
    /// # async fn example(monitor: tower_stall::StallMonitor) {
    /// let app: axum::Router = axum::Router::new()
    ///     .route("/users/{id}", axum::routing::get(|| async { "a user" }))
    ///     .layer(monitor.layer());
    /// # }
    /// ```
    #[must_use]
    pub fn layer(&self) -> StallLayer {
        StallLayer::with_guard(Arc::clone(&self.guard))
    }

    /// Measures the polls of a background task, under `method="TASK"` and `route=name`.
    ///
    /// The name is a label value: use one per kind of task, never one per task. It counts toward
    /// [`max_routes`](StallMonitorBuilder::max_routes). The task is in flight from this call to its
    /// end; one that completes counts as `2xx`, one that is dropped before as `cancelled`. Unlike a
    /// request, a task may contain measured requests, such as those of a connection: each is
    /// measured by itself.
    ///
    /// An upgraded connection, such as a WebSocket, is a task as well: see
    /// [upgrades](crate::guide::requests#upgrades).
    ///
    /// The task does not keep the monitor alive; without a monitor it continues unmeasured. A poll
    /// costs as much as a poll of a request; see [`guide::costs`](crate::guide::costs).
    ///
    /// ```
    /// # async fn example(monitor: tower_stall::StallMonitor) {
    /// tokio::spawn(monitor.instrument("refresh-cache", async {
    ///     // …
    /// }));
    /// # }
    /// ```
    pub fn instrument<F: Future>(&self, name: &str, future: F) -> Instrumented<F> {
        Instrumented::new(future, RequestGuard::task(self.guard.monitor(), name))
    }

    /// Wraps a listener for `axum::serve`, to measure for how long requests wait in the socket
    /// before the server reads them.
    ///
    /// For a `TcpListener`, and any other listener whose streams have a file descriptor. With
    /// HTTP/2, [`socket_wait_layer`](Self::socket_wait_layer) is needed as well. What is measured,
    /// where, and how exactly, is in [`guide::requests`](crate::guide::requests#socket-wait).
    ///
    /// `axum` implements `ConnectInfo<SocketAddr>` only for its own types of listeners; see the
    /// last example.
    ///
    /// ```no_run
    /// # async fn example(monitor: tower_stall::StallMonitor) -> std::io::Result<()> {
    /// let app = axum::Router::new()
    ///     .route("/users/{id}", axum::routing::get(|| async { "a user" }))
    ///     .layer(monitor.layer());
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    /// axum::serve(monitor.listener(listener), app).await
    /// # }
    /// ```
    ///
    /// ```no_run
    /// use std::net::SocketAddr;
    ///
    /// use axum::serve::ListenerExt;
    ///
    /// # async fn example(app: axum::Router, monitor: tower_stall::StallMonitor) -> std::io::Result<()> {
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    /// let listener = monitor.listener(listener).tap_io(|_| {});
    /// axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
    /// # }
    /// ```
    #[cfg(feature = "axum")]
    #[must_use]
    pub fn listener<L>(&self, listener: L) -> StallListener<L> {
        self.guard.monitor().read_sockets();
        StallListener::new(listener, Arc::clone(&self.guard))
    }

    /// Wraps the stream of a connection, to measure for how long requests wait in the socket before
    /// the server reads them.
    ///
    /// For servers other than `axum::serve`, and any stream with a file descriptor. Over TLS, wrap
    /// either the socket or the TLS stream around it. What is measured, where, and how exactly, is
    /// in [`guide::requests`](crate::guide::requests#socket-wait). The stream does not keep the
    /// monitor alive; without a monitor it passes everything through.
    ///
    /// ```no_run
    /// use hyper_util::rt::TokioIo;
    ///
    /// # async fn example(
    /// #     monitor: tower_stall::StallMonitor,
    /// #     listener: tokio::net::TcpListener,
    /// # ) -> std::io::Result<()> {
    /// loop {
    ///     let (stream, _) = listener.accept().await?;
    ///     let io = TokioIo::new(monitor.io(stream));
    ///     // hyper::server::conn::http1::Builder::new().serve_connection(io, service)
    /// #   drop(io);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn io<IO: Descriptor>(&self, io: IO) -> StallIo<IO> {
        self.guard.monitor().read_sockets();
        StallIo::new(io, self.guard.monitor())
    }

    /// Returns a layer that lets requests of HTTP/2 know how long they have waited in the socket.
    ///
    /// Needed only with HTTP/2, in addition to [`listener`](Self::listener) or [`io`](Self::io):
    /// servers call the service of each HTTP/2 stream in a task of its own, which does not know the
    /// connection. It must be the outermost layer, around the whole service, so that the server
    /// itself clones it for each request. Without it, requests of HTTP/2 have no socket wait.
    ///
    /// ```no_run
    /// use tower::Layer;
    /// use tower::make::Shared;
    ///
    /// # async fn example(
    /// #     monitor: tower_stall::StallMonitor,
    /// #     listener: tokio::net::TcpListener,
    /// # ) -> std::io::Result<()> {
    /// let app = axum::Router::new()
    ///     .route("/users/{id}", axum::routing::get(|| async { "a user" }))
    ///     .layer(monitor.layer());
    /// let app = monitor.socket_wait_layer().layer(app);
    /// axum::serve(monitor.listener(listener), Shared::new(app)).await
    /// # }
    /// ```
    #[must_use]
    pub fn socket_wait_layer(&self) -> SocketWaitLayer {
        SocketWaitLayer::with_guard(Arc::clone(&self.guard))
    }

    /// Sets the stall threshold. Takes effect at the end of the next poll and at the watchdog's
    /// next scan.
    ///
    /// # Errors
    ///
    /// Returns an error if the threshold is zero; the previous one remains.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # fn example(monitor: &tower_stall::StallMonitor) {
    /// assert!(monitor.set_stall_threshold(Duration::from_millis(100)).is_ok());
    /// assert!(monitor.set_stall_threshold(Duration::ZERO).is_err());
    /// # }
    /// ```
    pub fn set_stall_threshold(&self, threshold: Duration) -> Result<(), Error> {
        Error::check_threshold(threshold)?;
        self.guard.monitor().set_threshold(threshold);
        Ok(())
    }

    /// Returns the stall threshold, to the precision of the clock: it may differ from what was set
    /// by some nanoseconds.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// let monitor = tower_stall::StallMonitor::builder().spawn()?;
    /// assert_eq!((monitor.stall_threshold().as_secs_f64() * 1e3).round(), 25.0);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn stall_threshold(&self) -> Duration {
        let monitor = self.guard.monitor();
        monitor.clock.duration(monitor.threshold())
    }

    /// Returns the latest 256 stalls that have ended, oldest first, then those in progress.
    ///
    /// A stall that has ended appears once the watchdog has scanned the threads after its end,
    /// usually within a few milliseconds, 20 ms later where
    /// [socket waits](crate::guide::requests#socket-wait) are measured, or up to half a second later
    /// if a stack of it is still to be symbolized. If that takes longer, as it may for the first stack of a large program, the
    /// stall appears without a line, and [`Stall::missing`] says so; the line is added later. Clones
    /// the stalls under a lock that the reporter takes, but no polling thread.
    ///
    /// ```
    /// # fn example(monitor: &tower_stall::StallMonitor) {
    /// for stall in monitor.recent_stalls() {
    ///     println!("{stall}");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn recent_stalls(&self) -> Vec<Stall> {
        let monitor = self.guard.monitor();
        let history = monitor.history.lock();
        let in_progress = monitor.stalls_in_progress().filter_map(|stall| {
            let samples = history.samples.get(stall.id);
            let report = stall.to_report(monitor);
            StallBuilder::in_progress(monitor, &report.stall, samples, Duration::ZERO).build()
        });
        history.recent().cloned().chain(in_progress).collect()
    }

    /// Returns the time of all stalls with a captured stack, including those in progress: one line
    /// per distinct stack, `METHOD route;outer;inner milliseconds`, which flame-graph tools read.
    ///
    /// Stacks are captured shortly before the threshold, at each doubling of the age, and every
    /// second. Each represents the time since the previous one, and the last one also that to the
    /// end. The number of stacks is bounded: of those beyond 4096 distinct ones, only the route and
    /// the time are kept. Copies all stacks under a lock that the reporter takes, but no polling
    /// thread.
    ///
    /// ```no_run
    /// # fn example(monitor: &tower_stall::StallMonitor) -> std::io::Result<()> {
    /// std::fs::write("stalls.folded", monitor.collapsed_stacks())
    /// # }
    /// ```
    #[must_use]
    pub fn collapsed_stacks(&self) -> String {
        let monitor = self.guard.monitor();
        let history = monitor.history.lock();
        let mut collapsed = history.collapsed.clone();
        for stall in monitor.stalls_in_progress() {
            let Some(route) = monitor.routes.get(stall.poll.route) else { continue };
            let samples = history.samples.get(stall.id);
            collapsed.add_all(route.method, &route.name, samples, stall.age, &monitor.clock);
        }
        drop(history);
        collapsed.text()
    }

    /// Returns the statistics of the routes that have had requests or stalls: first those that are
    /// `unmatched`, `overflow` and `unattributed`, then the others in the order of their first
    /// request. A route without an answer is part of `unmatched`; see
    /// [cardinality](crate::guide::metrics#cardinality).
    ///
    /// Reads the counters of each thread; takes about a microsecond per route and thread.
    ///
    /// ```
    /// # fn example(monitor: &tower_stall::StallMonitor) {
    /// for route in monitor.routes() {
    ///     println!("{} {}: {} requests", route.method(), route.route(), route.requests());
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn routes(&self) -> Vec<RouteStats> {
        RouteStats::all(self.guard.monitor())
    }

    /// Stops the monitor, whether or not other handles, layers and services exist, and writes the
    /// last reports and metrics.
    ///
    /// Blocks until the monitor's threads have ended, for at most a second, even if a hook, a
    /// subscriber or a recorder hangs; reports that are not written by then are lost. Call it outside the
    /// runtime, or at the end of `main`. Remaining layers and tasks keep working, but their
    /// measurements are no longer reported. In a hook or a subscriber, it does not wait.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let runtime = tokio::runtime::Runtime::new()?;
    /// let handle = runtime.handle().clone();
    /// let monitor = tower_stall::StallMonitor::builder().runtime(handle).spawn()?;
    /// runtime.block_on(async { /* serve requests */ });
    /// monitor.shutdown();
    /// # Ok(()) }
    /// ```
    pub fn shutdown(self) {
        self.guard.close();
        self.guard.join(Self::SHUTDOWN_TIMEOUT);
    }
}

// Here, because `layer` does not use `monitor`.
impl StallLayer {
    /// Creates a layer that measures the requests of the services that it wraps; the same as
    /// [`StallMonitor::layer`].
    ///
    /// ```
    /// use tower::ServiceBuilder;
    /// use tower_stall::{StallLayer, StallMonitor};
    ///
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// let monitor = StallMonitor::builder().spawn()?;
    /// let builder = ServiceBuilder::new().layer(StallLayer::new(&monitor));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn new(monitor: &StallMonitor) -> Self {
        monitor.layer()
    }
}

impl fmt::Debug for StallMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runtime = &self.guard.monitor().runtime_name;
        f.debug_struct("StallMonitor").field("runtime", runtime).finish_non_exhaustive()
    }
}
