//! The state that the clones of one service share on one thread: the monitor, and the route that
//! was looked up first.

use std::sync::{Arc, OnceLock};

use http::Request;

use crate::request::{LocalHandle, RequestGuard, SocketWait, request_route};
use crate::routes::{MethodLabel, RequestRoute, RouteId, RouteRequest};
use crate::state::MonitorState;
use crate::threads::MonitorGuard;

#[cfg(feature = "axum")]
use axum::extract::MatchedPath;

/// Aligned so that it is not on the cache line of the reference count, which every request writes
/// to.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct ServiceState {
    guard: Arc<MonitorGuard>,
    /// The first route that was looked up. Where axum puts the layer around each route, no other
    /// occurs.
    cached: OnceLock<CachedRoute>,
}

#[derive(Debug)]
struct CachedRoute {
    method: MethodLabel,
    path: MatchedPath,
    id: RouteId,
}

/// Without a router there is no matched path.
#[cfg(not(feature = "axum"))]
#[derive(Debug, Clone)]
struct MatchedPath;

// === impl ServiceState ===

impl ServiceState {
    pub(super) fn new(guard: Arc<MonitorGuard>) -> Self {
        Self { guard, cached: OnceLock::new() }
    }

    /// Starts to measure a request under its route: axum's matched path if there is one, otherwise
    /// the result of the user's function; the other way round with `route_label_first`.
    #[inline]
    pub(super) fn start_request<B>(&self, request: &Request<B>) -> RequestGuard {
        let monitor = self.guard.monitor();
        let method = MethodLabel::new(request.method());
        RequestGuard::request(monitor, method, |local| {
            match request.extensions().get::<MatchedPath>() {
                Some(path) if !monitor.has_request_options.is_set() => {
                    self.resolve(local, monitor, method, path)
                }
                path => {
                    let request = RouteRequest::new(request);
                    self.start_with_options(local, monitor, method, path, request)
                }
            }
        })
    }

    /// Returns the route of a request without a matched path, of one of a monitor whose user's
    /// function comes first, or of one whose socket wait is measured.
    #[cold]
    fn start_with_options(
        &self,
        local: &LocalHandle,
        monitor: &MonitorState,
        method: MethodLabel,
        path: Option<&MatchedPath>,
        request: RouteRequest<'_>,
    ) -> RequestRoute {
        let route = match path {
            Some(path) if !monitor.route_label_first => self.resolve(local, monitor, method, path),
            path => resolve_label(local, monitor, method, path, request),
        };
        if monitor.reads_sockets.is_set() {
            SocketWait::record(request.extensions().get(), local, monitor, route.id);
        }
        route
    }

    #[inline(always)]
    fn resolve(
        &self,
        local: &LocalHandle,
        monitor: &MonitorState,
        method: MethodLabel,
        path: &MatchedPath,
    ) -> RequestRoute {
        match self.cached.get() {
            Some(cached) if cached.is(method, path) => cached.id.into(),
            _ => self.resolve_slow(local, monitor, method, path),
        }
    }

    #[cold]
    fn resolve_slow(
        &self,
        local: &LocalHandle,
        monitor: &MonitorState,
        method: MethodLabel,
        path: &MatchedPath,
    ) -> RequestRoute {
        let route = request_route(local, &monitor.routes, method, path.as_str());
        // A route over the limit is not cached, because each of its requests is counted.
        if route.candidate.is_none() && monitor.routes.is_named(route.id, path.as_str()) {
            let _ = self.cached.set(CachedRoute { method, path: path.clone(), id: route.id });
        }
        route
    }
}

impl Clone for ServiceState {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.guard))
    }
}

/// Asks the user's function first, and takes the matched path if it returns none.
fn resolve_label(
    local: &LocalHandle,
    monitor: &MonitorState,
    method: MethodLabel,
    path: Option<&MatchedPath>,
    request: RouteRequest<'_>,
) -> RequestRoute {
    let label = monitor.route_label.as_ref().and_then(|label| label(&request));
    match label.as_deref().or(path.map(MatchedPath::as_str)) {
        Some(name) => request_route(local, &monitor.routes, method, name),
        None => monitor.routes.of_request(method, None),
    }
}

// === impl CachedRoute ===

impl CachedRoute {
    /// Compares the addresses of the paths: while this one is kept, no other path has its address.
    #[inline]
    fn is(&self, method: MethodLabel, path: &MatchedPath) -> bool {
        self.method == method && std::ptr::eq(self.path.as_str(), path.as_str())
    }
}

#[cfg(not(feature = "axum"))]
impl MatchedPath {
    fn as_str(&self) -> &str {
        ""
    }
}
