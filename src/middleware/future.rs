use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;

use super::StallBody;
use crate::meter::Meter;
use crate::outcome::Outcome;

pin_project! {
    /// A response future whose polls are measured. Made by [`StallService`](crate::StallService).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct StallFuture<F> {
        #[pin]
        inner: F,
        meter: Option<Meter>,
        has_no_body: bool,
    }
}

impl<F> StallFuture<F> {
    /// Not yet measured.
    pub(super) fn new(inner: F, has_no_body: bool) -> Self {
        Self { inner, meter: None, has_no_body }
    }

    pub(super) fn measure(&mut self, meter: Meter) {
        self.meter = Some(meter);
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
        let Some(meter) = Meter::here(this.meter) else {
            return this.inner.poll(cx).map_ok(|response| response.map(StallBody::unmeasured));
        };
        let mark = 0;
        let (polling, lent) = meter.poll(cx.waker(), &mark);
        let result = this.inner.poll(&mut Context::from_waker(&lent.waker()));
        polling.end();
        lent.end();
        match result {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(response)) => Poll::Ready(Ok(respond(response, this.meter.take(), *this.has_no_body))),
            Poll::Ready(Err(error)) => {
                meter.count_as(Outcome::Error);
                *this.meter = None;
                Poll::Ready(Err(error))
            }
        }
    }
}

/// Not inlined, so that polls that wait do not pay for its frame.
#[inline(never)]
fn respond<R: Body>(response: Response<R>, meter: Option<Meter>, has_no_body: bool) -> Response<StallBody<R>> {
    let (parts, body) = response.into_parts();
    let body = match meter {
        // A complete answer: what is left of the body is nobody's to wait for.
        Some(mut meter) if has_no_body || is_bodiless(parts.status) => {
            meter.count_as(Outcome::of(parts.status));
            StallBody::unmeasured(body)
        }
        Some(meter) => StallBody::measured(body, meter, parts.status, &parts.headers),
        None => StallBody::unmeasured(body),
    };
    Response::from_parts(parts, body)
}

fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}
