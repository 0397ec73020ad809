//! A Prometheus exporter that answers while every worker is stalled.
//!
//! [`serve`] is for a process that has no `metrics` recorder yet. One that sets up its own
//! [`PrometheusBuilder`] passes it through [`buckets`], and should run the exporter outside
//! the watched runtime: an endpoint that is a task of the stalled runtime is silent just when it is needed.
//!
//! [`Server::show_stalls`] puts the reports beside the metrics, for people who come from a dashboard or an alert.

mod recorder;
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
use crate::cells::BOUNDS_NANOS;

/// Why [`serve`] failed. Nothing is left installed, so it can be tried again.
#[derive(Debug)]
pub struct ServeError(Kind);

#[derive(Debug)]
enum Kind {
    Bind(SocketAddr, io::Error),
    Thread(io::Error),
    Recorder,
}

/// Makes metrics-exporter-prometheus the process-wide `metrics` recorder, and answers `GET /metrics` at `addr`.
///
/// On a thread and a runtime of its own, so that it answers while the runtime it tells of stands still. Port 0 takes a free port:
/// ask [`Server::local_addr`]. It serves until the process ends; dropping the returned handle changes nothing. All metrics of the process
/// are served, other libraries' too; the buckets of this crate's are those of [`buckets`]. Samples are drained as they come and at
/// least every 5 s, so that memory does not grow between scrapes.
///
/// There is no authentication: bind it to an address that only the scraper reaches.
///
/// # Errors
///
/// If the address is in use or not this machine's, if the process has a recorder already (then use [`buckets`] with that one's
/// builder), or if no thread can be started.
///
/// ```
/// let server = tower_stall::prometheus::serve(([127, 0, 0, 1], 0))?;
/// println!("http://{}/metrics", server.local_addr());
/// # Ok::<(), tower_stall::prometheus::ServeError>(())
/// ```
pub fn serve(addr: impl Into<SocketAddr>) -> Result<Server, ServeError> {
    let addr = addr.into();
    let listener = Listener::bind(addr).map_err(|error| ServeError(Kind::Bind(addr, error)))?;
    let recorder = DrainingRecorder::new(buckets(PrometheusBuilder::new()).build_recorder());
    let start = listener.spawn(recorder.drain()).map_err(|error| ServeError(Kind::Thread(error)))?;
    if metrics::set_global_recorder(recorder).is_err() {
        start.cancel();
        return Err(ServeError(Kind::Recorder));
    }
    crate::export::recorder_drains();
    Ok(start.go())
}

/// Sets the buckets of this crate's histograms, which would else be rendered as summaries, and upkeep to once a second, which
/// keeps what waits between scrapes small.
///
/// A builder that is installed without a listener runs no upkeep of its own: call `PrometheusHandle::run_upkeep` now and then.
///
/// ```
/// use metrics_exporter_prometheus::PrometheusBuilder;
///
/// let recorder = tower_stall::prometheus::buckets(PrometheusBuilder::new()).build_recorder();
/// ```
#[must_use]
pub fn buckets(builder: PrometheusBuilder) -> PrometheusBuilder {
    let bounds = BOUNDS_NANOS.map(|nanos| nanos as f64 / 1e9);
    let builder = builder.upkeep_timeout(Duration::from_secs(1));
    match builder.set_buckets_for_metric(Matcher::Prefix(crate::export::PREFIX.into()), &bounds) {
        Ok(builder) => builder,
        Err(_) => unreachable!("only an empty list of buckets is refused"),
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Bind(addr, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "metrics cannot be served at {addr}: the address is in use; choose another port, or 0 for a free one")
            }
            Kind::Bind(addr, error) => write!(f, "metrics cannot be served at {addr}: {error}"),
            Kind::Thread(error) => write!(f, "the thread that serves metrics could not be started: {error}"),
            Kind::Recorder => f.write_str(
                "the process has a `metrics` recorder already: pass its builder through `tower_stall::prometheus::buckets` instead",
            ),
        }
    }
}

impl Error for ServeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Kind::Bind(_, error) | Kind::Thread(error) => Some(error),
            Kind::Recorder => None,
        }
    }
}
