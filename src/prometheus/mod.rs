//! A Prometheus exporter that responds while every worker is stalled.
//!
//! [`serve`] is for a process that has no `metrics` recorder yet. A process that sets up its own
//! exporter uses [`BUCKETS`] and [`PREFIX`], or [`buckets`] for a [`PrometheusBuilder`], and should
//! run the exporter outside the watched runtime: an endpoint that is a task of a stalled runtime
//! does not respond when it is needed.
//!
//! [`Server::show`] adds the reports of a monitor, which dashboards and alerts can link to.

mod connections;
mod host;
mod recorder;
mod renderings;
mod router;
mod server;
mod stalls;

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

pub use self::server::Server;

use self::recorder::DrainingRecorder;
use self::server::Listener;
use crate::error::write_debug;
use crate::shard::BOUNDS_NANOS;

/// The prefix of the names of all metrics of this crate.
///
/// Exporters that set buckets by prefix use it together with [`BUCKETS`].
///
/// ```
/// use tower_stall::prometheus::PREFIX;
///
/// assert!("tower_stall_requests_total".starts_with(PREFIX));
/// ```
pub const PREFIX: &str = "tower_stall_";

/// The upper bounds of the buckets of all histograms of this crate, in seconds.
///
/// With these bounds, other exporters have exact bucket counts.
///
/// ```
/// use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
/// use tower_stall::prometheus::{BUCKETS, PREFIX};
///
/// let builder = PrometheusBuilder::new()
///     .set_buckets_for_metric(Matcher::Prefix(PREFIX.into()), &BUCKETS)?;
/// # Ok::<(), metrics_exporter_prometheus::BuildError>(())
/// ```
pub const BUCKETS: [f64; BOUNDS_NANOS.len()] = {
    let mut seconds = [0.0; BOUNDS_NANOS.len()];
    let mut index = 0;
    while index < seconds.len() {
        seconds[index] = BOUNDS_NANOS[index] as f64 / 1e9;
        index += 1;
    }
    seconds
};

/// The reason why [`serve`] failed. Nothing remains installed, so it can be tried again.
///
/// ```
/// use tower_stall::prometheus::serve;
///
/// let _first = serve(([127, 0, 0, 1], 0))?;
/// let error = serve(([127, 0, 0, 1], 0)).unwrap_err();
/// assert!(error.to_string().contains("already has a `metrics` recorder"));
/// # Ok::<(), tower_stall::prometheus::ServeError>(())
/// ```
pub struct ServeError(ServeErrorKind);

enum ServeErrorKind {
    Bind(SocketAddr, io::Error),
    Thread(io::Error),
    Recorder,
}

/// Installs metrics-exporter-prometheus as the process-wide `metrics` recorder, and serves
/// `GET /metrics` at `addr`.
///
/// The server has a thread and a runtime of its own, so that it responds while the watched runtime
/// is stalled. It runs until the process ends; dropping the returned handle changes nothing. Port 0
/// takes a free port: see [`Server::local_addr`].
///
/// All metrics of the process are served, including those of other libraries. The histograms of
/// this crate have the buckets [`BUCKETS`]. Samples are drained at every scrape, every 5 s, and
/// whenever this crate has added 16384, so that memory does not grow between scrapes.
///
/// There is no authentication: bind the server to an address that only the scraper can reach. A
/// client that connects to a loopback address must not ask for a host of another name, such as
/// `example.com`, so that no web page can read the metrics in a browser on the same host (DNS
/// rebinding).
///
/// The server cannot starve the service: it has at most 128 connections, of which it closes the one
/// that has been idle for the longest time, or else the one that reads most slowly, if there are
/// more. A response must be read within 10 s, and the head of a request must arrive within 30 s. One
/// rendering serves all clients that wait for it, none is made for clients that have gone, at most
/// four are in memory, and after each the server pauses for four times as long as it took, at most
/// for half a second.
///
/// # Errors
///
/// Returns an error if the address is in use or does not belong to this host, if the process
/// already has a recorder (use [`buckets`] with its builder instead), or if a thread cannot be
/// spawned.
///
/// # Examples
///
/// ```
/// let server = tower_stall::prometheus::serve(([127, 0, 0, 1], 0))?;
/// println!("http://{}/metrics", server.local_addr());
/// # Ok::<(), tower_stall::prometheus::ServeError>(())
/// ```
pub fn serve(addr: impl Into<SocketAddr>) -> Result<Server, ServeError> {
    let addr = addr.into();
    let listener =
        Listener::bind(addr).map_err(|error| ServeError(ServeErrorKind::Bind(addr, error)))?;
    let recorder = DrainingRecorder::new(buckets(PrometheusBuilder::new()).build_recorder());
    let pending = listener
        .spawn(recorder.drain())
        .map_err(|error| ServeError(ServeErrorKind::Thread(error)))?;
    if metrics::set_global_recorder(recorder).is_err() {
        pending.cancel();
        return Err(ServeError(ServeErrorKind::Recorder));
    }
    crate::export::set_recorder_drains();
    Ok(pending.start())
}

/// Configures the buckets of this crate's histograms, which would otherwise be rendered as
/// summaries, and an upkeep once a second, which bounds what is buffered between scrapes.
///
/// A builder that is installed without a listener runs no upkeep: call
/// `PrometheusHandle::run_upkeep` regularly.
///
/// This function takes and returns a type of metrics-exporter-prometheus 0.18. For other versions
/// of it, and other exporters, use [`BUCKETS`] and [`PREFIX`].
///
/// ```
/// use metrics_exporter_prometheus::PrometheusBuilder;
///
/// let recorder = tower_stall::prometheus::buckets(PrometheusBuilder::new()).build_recorder();
/// ```
#[must_use]
pub fn buckets(builder: PrometheusBuilder) -> PrometheusBuilder {
    let builder = builder.upkeep_timeout(Duration::from_secs(1));
    match builder.set_buckets_for_metric(Matcher::Prefix(PREFIX.into()), &BUCKETS) {
        Ok(builder) => builder,
        Err(_) => unreachable!("only an empty list of buckets is rejected"),
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ServeErrorKind::Bind(addr, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot serve metrics at {addr}; choose another port, or 0 for a free one"
                )
            }
            ServeErrorKind::Bind(addr, _) => write!(f, "cannot serve metrics at {addr}"),
            ServeErrorKind::Thread(_) => {
                f.write_str("failed to spawn the thread that serves metrics")
            }
            ServeErrorKind::Recorder => f.write_str(
                "the process already has a `metrics` recorder: call `serve` once, or pass the \
                 builder of that recorder through `tower_stall::prometheus::buckets` instead",
            ),
        }
    }
}

/// The message, which `main` shows if it returns the error, and the source.
impl fmt::Debug for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_debug("ServeError", self, f)
    }
}

impl Error for ServeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            ServeErrorKind::Bind(_, error) | ServeErrorKind::Thread(error) => Some(error),
            ServeErrorKind::Recorder => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_the_documented_bounds() {
        let documented =
            [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
        assert_eq!(BUCKETS, documented);
    }
}
