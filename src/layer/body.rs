use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::request::{BODY, PollGuard, RequestGuard, StackMark};

pin_project! {
    /// A response body whose polls are measured.
    ///
    /// Part of the response of [`StallService`](crate::StallService); named only in the bounds of
    /// generic code. Adds one pointer to the size of the underlying body. The request is complete
    /// when the body ends, reports its end, or has yielded as many bytes as were announced: servers
    /// drop a body then without polling it again. Dropping the body before that ends the request as
    /// `cancelled`.
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use http::{Request, Response};
    /// use tower::{Layer, Service, service_fn};
    /// use tower_stall::{StallBody, StallMonitor};
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let monitor = StallMonitor::builder().spawn()?;
    /// let mut service = monitor.layer().layer(service_fn(|_: Request<()>| async {
    ///     Ok::<_, Infallible>(Response::new("hello".to_owned()))
    /// }));
    /// let response: Response<StallBody<String>> = service.call(Request::new(())).await?;
    /// assert_eq!(response.into_body().into_inner(), "hello");
    /// # Ok(()) }
    /// ```
    #[derive(Debug)]
    pub struct StallBody<B> {
        #[pin]
        inner: B,
        guard: RequestGuard,
    }
}

impl<B> StallBody<B> {
    pub(super) fn unmeasured(inner: B) -> Self {
        Self { inner, guard: RequestGuard::default() }
    }

    pub(super) fn measured(inner: B, guard: RequestGuard) -> Self {
        Self { inner, guard }
    }

    /// Gets a reference to the underlying body.
    pub fn get_ref(&self) -> &B {
        &self.inner
    }

    /// Gets a mutable reference to the underlying body. Polls through it are not measured.
    pub fn get_mut(&mut self) -> &mut B {
        &mut self.inner
    }

    /// Consumes `self`, returning the underlying body. The request ends here, as `cancelled` unless
    /// it was complete.
    pub fn into_inner(self) -> B {
        self.inner
    }
}

impl<B: Default> Default for StallBody<B> {
    /// Creates an unmeasured body, for middleware that responds without calling the inner service.
    fn default() -> Self {
        Self::unmeasured(B::default())
    }
}

impl<B: Body> Body for StallBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(record) = this.guard.bind_to_current_thread() else {
            return this.inner.poll_frame(cx);
        };
        let mark = StackMark::new();
        let (poll, waker) = PollGuard::<BODY>::begin_poll(record, cx.waker(), &mark);
        let polled = this.inner.as_mut().poll_frame(&mut Context::from_waker(waker));
        poll.end();
        let has_ended = match &polled {
            // The body is asked only if the frame may be the last one: it is a virtual call.
            Poll::Ready(Some(Ok(frame)))
                if record.on_frame(frame) && this.inner.is_end_stream() =>
            {
                record.on_end();
                true
            }
            Poll::Ready(Some(Ok(_))) | Poll::Pending => false,
            Poll::Ready(Some(Err(_))) => {
                record.on_error();
                true
            }
            Poll::Ready(None) => {
                record.on_end();
                true
            }
        };
        if has_ended {
            this.guard.end();
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
