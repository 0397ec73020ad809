//! What users put around their code: a layer, the service, future and body that it wraps, an
//! instrumented task, and the sockets of a server.

mod body;
mod descriptor;
mod future;
mod instrumented;
mod io;
#[cfg(feature = "axum")]
mod listener;
mod other_axum;
mod service;
mod service_state;
mod sharded_arc;
mod socket_wait;

use std::sync::Arc;

use tower_layer::Layer;

pub use self::body::StallBody;
pub(crate) use self::descriptor::Descriptor;
pub use self::future::StallFuture;
pub use self::instrumented::Instrumented;
pub use self::io::StallIo;
#[cfg(feature = "axum")]
pub use self::listener::StallListener;
pub use self::service::StallService;

pub use self::socket_wait::{SocketWaitLayer, SocketWaitService};

use self::service_state::ServiceState;
use self::sharded_arc::ShardedArc;
use crate::state::Notice;
use crate::threads::MonitorGuard;

/// Measures the requests of the services that it wraps.
///
/// Returned by [`StallMonitor::layer`](crate::StallMonitor::layer). A layer keeps its monitor
/// alive. What it costs a request and a poll is in [`guide::costs`](crate::guide::costs).
///
/// With axum, add it with `Router::layer`, `Router::route_layer` or `MethodRouter::layer`, where
/// the matched route is known. Around a whole `Router`, as in
/// `ServiceBuilder::new().layer(…).service(router)`, the route is not known yet: every request is
/// `unmatched`, unless [`route_label`](crate::StallMonitorBuilder::route_label) returns a route.
///
/// ```
/// use std::convert::Infallible;
///
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_stall::{StallLayer, StallMonitor};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let monitor = StallMonitor::builder()
///     .route_label(|request| (request.uri().path() == "/health").then(|| "/health".into()))
///     .spawn()?;
/// let service = ServiceBuilder::new()
///     .layer(StallLayer::new(&monitor))
///     .service(service_fn(|_: Request<()>| async {
///         Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
///     }));
/// service.oneshot(Request::get("/health").body(())?).await?;
/// assert_eq!(monitor.routes()[0].route(), "/health");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct StallLayer {
    guard: Arc<MonitorGuard>,
}

impl StallLayer {
    pub(crate) fn with_guard(guard: Arc<MonitorGuard>) -> Self {
        Self { guard }
    }
}

impl<S> Layer<S> for StallLayer {
    type Service = StallService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let monitor = self.guard.monitor();
        if other_axum::is_route::<S>() && monitor.route_label.is_none() {
            monitor.queue.push_notice(Notice::OtherAxum);
        }
        let state = ServiceState::new(Arc::clone(&self.guard));
        StallService::new(inner, ShardedArc::new(state))
    }
}
