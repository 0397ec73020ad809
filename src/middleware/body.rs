use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::meter::Meter;
use crate::outcome::Outcome;

pin_project! {
    /// A response body whose polls are measured. Made by [`StallService`](crate::StallService).
    ///
    /// The request is complete when the body ends, or says that it has ended, or has given as many bytes as it promised: servers
    /// drop a body then without polling it once more.
    #[derive(Debug)]
    pub struct StallBody<B> {
        #[pin]
        inner: B,
        meter: Option<Meter>,
        complete: Outcome,
        // Bytes still to come, where that is known.
        remaining: Option<u64>,
    }
}

impl<B> StallBody<B> {
    pub(super) fn unmeasured(inner: B) -> Self {
        Self { inner, meter: None, complete: Outcome::Cancelled, remaining: None }
    }
}

impl<B: Body> StallBody<B> {
    pub(super) fn measured(inner: B, mut meter: Meter, status: StatusCode, headers: &HeaderMap) -> Self {
        let complete = Outcome::of(status);
        if inner.is_end_stream() {
            meter.count_as(complete);
            return Self::unmeasured(inner);
        }
        meter.enter_body();
        // The header is asked only where the body does not know: a look into the map costs more than a poll.
        let remaining = inner.size_hint().exact().or_else(|| promised(headers));
        if remaining == Some(0) {
            // Servers do not poll it at all.
            meter.count_as(complete);
        }
        Self { inner, meter: Some(meter), complete, remaining }
    }
}

/// How many bytes the answer's header promises.
#[cold]
fn promised(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl<B: Default> Default for StallBody<B> {
    /// A body that is measured for nobody, for middleware that answers in the service's place.
    fn default() -> Self {
        Self::unmeasured(B::default())
    }
}

impl<B: Body> Body for StallBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(meter) = Meter::here(this.meter) else {
            return this.inner.poll_frame(cx);
        };
        let mark = 0;
        let (polling, lent) = meter.poll(cx.waker(), &mark);
        let polled = this.inner.as_mut().poll_frame(&mut Context::from_waker(&lent.waker()));
        polling.end();
        lent.end();
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(remaining), Some(data)) = (this.remaining.as_mut(), frame.data_ref()) {
                    *remaining = remaining.saturating_sub(data.remaining() as u64);
                }
                let has_ended = this.inner.is_end_stream();
                if has_ended || *this.remaining == Some(0) {
                    meter.count_as(*this.complete);
                }
                if has_ended {
                    *this.meter = None;
                }
            }
            Poll::Ready(Some(Err(_))) => {
                meter.count_as(Outcome::Error);
                *this.meter = None;
            }
            Poll::Ready(None) => {
                meter.count_as(*this.complete);
                *this.meter = None;
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
