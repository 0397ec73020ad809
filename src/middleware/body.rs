use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::meter::{BODY, Mark, Meter};

pin_project! {
    /// A response body whose polls are measured. Made by [`StallService`](crate::StallService).
    ///
    /// The request is complete when the body ends, says that it has ended, or has given as many bytes as it promised: servers drop a
    /// body then without polling it once more.
    #[derive(Debug)]
    pub struct StallBody<B>
    where
        B: Body,
    {
        #[pin]
        inner: B,
        meter: Meter,
    }

    impl<B: Body> PinnedDrop for StallBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(record) = this.meter.incomplete() {
                if this.inner.is_end_stream() {
                    record.completed();
                }
            }
        }
    }
}

impl<B: Body> StallBody<B> {
    pub(super) fn unmeasured(inner: B) -> Self {
        Self { inner, meter: Meter::default() }
    }

    pub(super) fn measured(inner: B, meter: Meter) -> Self {
        Self { inner, meter }
    }
}

impl<B: Body + Default> Default for StallBody<B> {
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
        let Some(record) = this.meter.here() else {
            return this.inner.poll_frame(cx);
        };
        let mark = Mark::new();
        let (polling, waker) = record.poll::<BODY>(cx.waker(), &mark);
        let polled = this.inner.as_mut().poll_frame(&mut Context::from_waker(waker));
        polling.end();
        let is_over = match &polled {
            // The body is asked only where it may say yes: that is a call through a table.
            Poll::Ready(Some(Ok(frame))) if record.sent(frame) && this.inner.is_end_stream() => {
                record.completed();
                true
            }
            Poll::Ready(Some(Ok(_))) | Poll::Pending => false,
            Poll::Ready(Some(Err(_))) => {
                record.failed();
                true
            }
            Poll::Ready(None) => {
                record.completed();
                true
            }
        };
        if is_over {
            this.meter.end();
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
