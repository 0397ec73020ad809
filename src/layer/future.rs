use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::StallBody;
use crate::request::{HANDLER, PollGuard, RequestGuard, StackMark};

pin_project! {
    /// A response future whose polls are measured.
    ///
    /// Returned by [`StallService`](crate::StallService); named only in the bounds of generic code.
    /// Dropping it before it is ready ends the request as `cancelled`. Adds one pointer to the size
    /// of the underlying future.
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use http::{Request, Response};
    /// use tower::{Layer, Service, service_fn};
    /// use tower_stall::{StallFuture, StallMonitor};
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let monitor = StallMonitor::builder().spawn()?;
    /// let mut service = monitor.layer().layer(service_fn(|_: Request<()>| async {
    ///     Ok::<_, Infallible>(Response::new("hello".to_owned()))
    /// }));
    /// let future: StallFuture<_> = service.call(Request::new(()));
    /// assert_eq!(future.await?.status(), 200);
    /// # Ok(()) }
    /// ```
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct StallFuture<F> {
        #[pin]
        inner: F,
        // Empty once the response is ready, because the body holds the guard from then on.
        guard: RequestGuard,
    }
}

impl<F> StallFuture<F> {
    pub(super) fn new(inner: F, guard: RequestGuard) -> Self {
        Self { inner, guard }
    }

    /// Gets a reference to the underlying future.
    pub fn get_ref(&self) -> &F {
        &self.inner
    }

    /// Gets a pinned mutable reference to the underlying future. Polls through it are not measured.
    pub fn get_pin_mut(self: Pin<&mut Self>) -> Pin<&mut F> {
        self.project().inner
    }
}

impl<F, R, E> Future for StallFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<StallBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(record) = this.guard.bind_to_current_thread() else {
            return poll_unmeasured(this.inner, cx);
        };
        let mark = StackMark::new();
        let (poll, waker) = PollGuard::<HANDLER>::begin_poll(record, cx.waker(), &mark);
        let result = this.inner.poll(&mut Context::from_waker(waker));
        poll.end();
        // NB: the response is examined in place and moved once, because it has over 100 bytes.
        let guard = match &result {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(response)) => this.guard.take_for_body(response),
            Poll::Ready(Err(_)) => {
                this.guard.end_with_error();
                RequestGuard::default()
            }
        };
        result.map_ok(|response| response.map(|body| StallBody::measured(body, guard)))
    }
}

#[cold]
fn poll_unmeasured<F, R, E>(
    inner: Pin<&mut F>,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<StallBody<R>>, E>>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    inner.poll(cx).map_ok(|response| response.map(StallBody::unmeasured))
}
