use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

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
    pub(super) fn measured(inner: F, meter: Meter, has_no_body: bool) -> Self {
        Self { inner, meter: Some(meter), has_no_body }
    }

    pub(super) fn unmeasured(inner: F) -> Self {
        Self { inner, meter: None, has_no_body: false }
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
        let result = match this.meter {
            Some(meter) => ready!(meter.poll(cx, |cx| this.inner.poll(cx))),
            None => ready!(this.inner.poll(cx)),
        };
        let meter = this.meter.take();
        match result {
            Ok(response) => Poll::Ready(Ok(respond(response, meter, *this.has_no_body))),
            Err(error) => {
                if let Some(mut meter) = meter {
                    meter.count_as(Outcome::Error);
                }
                Poll::Ready(Err(error))
            }
        }
    }
}

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
