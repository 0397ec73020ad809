use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::StallBody;
use crate::meter::{HANDLER, Mark, Meter};

pin_project! {
    /// A response future whose polls are measured. Made by [`StallService`](crate::StallService).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct StallFuture<F> {
        #[pin]
        inner: F,
        meter: Meter,
    }
}

impl<F> StallFuture<F> {
    pub(super) fn new(inner: F, meter: Meter) -> Self {
        Self { inner, meter }
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
        let Some(record) = this.meter.here() else {
            return unmeasured(this.inner, cx);
        };
        let mark = Mark::new();
        let (polling, waker) = record.poll::<HANDLER>(cx.waker(), &mark);
        let result = this.inner.poll(&mut Context::from_waker(waker));
        polling.end();
        // Looked at where it is, and moved once: an answer is more than a hundred bytes.
        let meter = match &result {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(response)) => this.meter.for_body(response),
            Poll::Ready(Err(_)) => this.meter.for_error(),
        };
        result.map_ok(|response| response.map(|body| StallBody::measured(body, meter)))
    }
}

#[cold]
fn unmeasured<F, R, E>(inner: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<Result<Response<StallBody<R>>, E>>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    inner.poll(cx).map_ok(|response| response.map(StallBody::unmeasured))
}
