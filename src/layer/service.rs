use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::service_state::ServiceState;
use super::sharded_arc::ShardedArc;
use super::{StallBody, StallFuture};
use crate::request::{HANDLER, PollGuard, StackMark};

/// A service whose requests are measured.
///
/// Created by [`StallLayer`](crate::StallLayer), which has an example. It is ready when the
/// underlying service is, and passes its errors through. Clones on one thread share the route
/// that was looked up first, so cloning the service for each request, as routers do, is cheap.
///
/// ```
/// use tower::Layer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_stall::Error> {
/// let monitor = tower_stall::StallMonitor::builder().spawn()?;
/// let service = monitor.layer().layer("an inner service");
/// assert_eq!(service.into_inner(), "an inner service");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct StallService<S> {
    inner: S,
    state: ShardedArc<ServiceState>,
}

impl<S> StallService<S> {
    pub(super) fn new(inner: S, state: ShardedArc<ServiceState>) -> Self {
        Self { inner, state }
    }

    /// Gets a reference to the underlying service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Gets a mutable reference to the underlying service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Consumes `self`, returning the underlying service.
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
        let mut guard = self.state.get().start_request(&request);
        let mark = StackMark::new();
        let inner = {
            let poll = guard.record().map(|record| PollGuard::<HANDLER>::begin_call(record, &mark));
            let inner = self.inner.call(request);
            if let Some(poll) = poll {
                poll.end();
            }
            inner
        };
        StallFuture::new(inner, guard)
    }
}
