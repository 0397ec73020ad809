use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::entry::Entry;
use super::{StallBody, StallFuture};
use crate::meter::{Mark, Polling};

/// A service whose requests are measured. Made by [`StallLayer`](crate::StallLayer).
#[derive(Clone, Debug)]
pub struct StallService<S> {
    pub(super) inner: S,
    pub(super) entry: Entry,
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
        let mut meter = self.entry.entrance().enter(&request);
        let mark = Mark::new();
        let calling = meter.record().map(|record| record.call(&mark));
        let inner = self.inner.call(request);
        calling.into_iter().for_each(Polling::end);
        StallFuture::new(inner, meter)
    }
}
