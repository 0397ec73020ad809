use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{StallBody, StallFuture};
use crate::meter::Meter;
use crate::routes::Method;
use crate::shared::Shared;
use crate::threads::Watch;

/// A service whose requests are measured. Made by [`StallLayer`](crate::StallLayer).
#[derive(Clone, Debug)]
pub struct StallService<S> {
    pub(super) inner: S,
    pub(super) watch: Arc<Watch>,
}

impl<S> StallService<S> {
    /// The wrapped service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The wrapped service, mutably.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Takes the wrapped service out.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for StallService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<StallBody<R>>;
    type Error = S::Error;
    type Future = StallFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let has_no_body = request.method() == http::Method::HEAD;
        match meter(self.watch.shared(), &request) {
            Some(mut meter) => {
                let inner = meter.measure(|| self.inner.call(request));
                StallFuture::measured(inner, meter, has_no_body)
            }
            None => StallFuture::unmeasured(self.inner.call(request)),
        }
    }
}

/// Begins to measure a request under the route that is known for it: axum's first, then the user's own.
#[inline]
fn meter<B>(shared: &Arc<Shared>, request: &Request<B>) -> Option<Meter> {
    let method = Method::of(request.method());
    if let Some(path) = matched_path(request) {
        return Meter::request(shared, method, Some(path));
    }
    let label = shared.route_label.as_ref().and_then(|label| label(request.method(), request.uri()));
    Meter::request(shared, method, label.as_deref())
}

#[cfg(feature = "axum")]
fn matched_path<B>(request: &Request<B>) -> Option<&str> {
    request.extensions().get::<axum::extract::MatchedPath>().map(axum::extract::MatchedPath::as_str)
}

#[cfg(not(feature = "axum"))]
fn matched_path<B>(_: &Request<B>) -> Option<&str> {
    None
}
