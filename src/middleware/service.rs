use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::entrance::Entrance;
use super::{StallBody, StallFuture};

/// A service whose requests are measured. Made by [`StallLayer`](crate::StallLayer).
#[derive(Clone, Debug)]
pub struct StallService<S> {
    pub(super) inner: S,
    pub(super) entrance: Arc<Entrance>,
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
        let Some(mut meter) = self.entrance.enter(&request) else {
            return StallFuture::new(self.inner.call(request), has_no_body);
        };
        let mark = 0;
        let calling = meter.call(&mark);
        let mut future = StallFuture::new(self.inner.call(request), has_no_body);
        calling.end();
        future.measure(meter);
        future
    }
}
