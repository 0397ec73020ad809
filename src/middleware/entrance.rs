use std::sync::{Arc, OnceLock};

use http::Request;

use crate::meter::Meter;
use crate::own::Own;
use crate::routes::{Method, RouteId};
use crate::shared::Shared;
use crate::threads::Watch;

/// What all clones of one service share. Aligned so that it is not on the cache line where they are counted, which each request writes to.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Entrance {
    watch: Arc<Watch>,
    /// The first route that came by. Where axum puts the layer around each of its routes, no other does.
    first: OnceLock<First>,
}

#[derive(Debug)]
struct First {
    method: Method,
    path: MatchedPath,
    id: RouteId,
}

#[cfg(feature = "axum")]
use axum::extract::MatchedPath;

/// Nothing is matched without a router.
#[cfg(not(feature = "axum"))]
#[derive(Debug, Clone)]
struct MatchedPath;

// === impl Entrance ===

impl Entrance {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        Self { watch, first: OnceLock::new() }
    }

    /// Another one of the same monitor.
    pub(super) fn copy(&self) -> Self {
        Self::new(Arc::clone(&self.watch))
    }

    /// Begins to measure a request under the route that is known for it: axum's first, then the user's own.
    #[inline]
    pub(super) fn enter<B>(&self, request: &Request<B>) -> Meter {
        let shared = self.watch.shared();
        let method = Method::of(request.method());
        Meter::request(shared, method, |own| match request.extensions().get::<MatchedPath>() {
            Some(path) => self.matched(own, shared, method, path),
            None => labelled(own, shared, method, request),
        })
    }

    #[inline]
    fn matched(&self, own: &Own, shared: &Shared, method: Method, path: &MatchedPath) -> RouteId {
        match self.first.get() {
            Some(first) if first.is(method, path) => first.id,
            _ => self.another(own, shared, method, path),
        }
    }

    #[cold]
    fn another(&self, own: &Own, shared: &Shared, method: Method, path: &MatchedPath) -> RouteId {
        let id = own.route(&shared.routes, method, path.as_str());
        // Each request past the cap is counted, which is not done here.
        if shared.routes.is_named(id, path.as_str()) {
            let _ = self.first.set(First { method, path: path.clone(), id });
        }
        id
    }
}

#[cold]
fn labelled<B>(own: &Own, shared: &Shared, method: Method, request: &Request<B>) -> RouteId {
    let label = shared.route_label.as_ref().and_then(|label| label(request.method(), request.uri()));
    match label {
        Some(label) => own.route(&shared.routes, method, &label),
        None => shared.routes.id(method, None),
    }
}

// === impl First ===

impl First {
    /// The very same piece of memory: no other name can be there while this one is kept.
    #[inline]
    fn is(&self, method: Method, path: &MatchedPath) -> bool {
        self.method == method && std::ptr::eq(self.path.as_str(), path.as_str())
    }
}

#[cfg(not(feature = "axum"))]
impl MatchedPath {
    fn as_str(&self) -> &str {
        ""
    }
}
