//! Runtimes, monitors on them, and what a monitor has counted.

use tokio::runtime::{Builder, Runtime};
use tower_stall::{RouteStats, Stall, StallMonitor, StallMonitorBuilder};

/// Returns a multi-threaded runtime.
pub(crate) fn runtime(workers: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap()
}

/// Returns a runtime whose only worker is the thread that calls `block_on`.
pub(crate) fn current_thread_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Returns a builder for a monitor of `runtime`.
pub(crate) fn builder_for(runtime: &Runtime) -> StallMonitorBuilder {
    StallMonitor::builder().runtime(runtime.handle().clone())
}

/// Returns a monitor of `runtime` with default settings.
pub(crate) fn monitor_for(runtime: &Runtime) -> StallMonitor {
    builder_for(runtime).spawn().unwrap()
}

/// Returns the monitor's counts of a route, if there are any.
pub(crate) fn stats(monitor: &StallMonitor, method: &str, route: &str) -> Option<RouteStats> {
    let is_wanted = |stats: &RouteStats| stats.method() == method && stats.route() == route;
    monitor.routes().into_iter().find(is_wanted)
}

/// Returns the number of requests in flight of a `GET` route.
pub(crate) fn in_flight(monitor: &StallMonitor, route: &str) -> u64 {
    stats(monitor, "GET", route).map_or(0, |stats| stats.in_flight())
}

/// Returns the stalls in progress.
pub(crate) fn in_progress(monitor: &StallMonitor) -> Vec<Stall> {
    monitor.recent_stalls().into_iter().filter(Stall::is_in_progress).collect()
}

/// Returns the stalls that have ended, oldest first.
pub(crate) fn ended(monitor: &StallMonitor) -> Vec<Stall> {
    monitor.recent_stalls().into_iter().filter(|stall| !stall.is_in_progress()).collect()
}
