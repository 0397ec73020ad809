//! The lower bound for a layer that observes the end of the response: it adds one word to the body.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tower::{Layer, Service};

#[derive(Clone, Copy)]
pub struct WrapBodyLayer;

#[derive(Clone)]
pub struct WrapBody<S>(S);

/// The future of [`WrapBody`]. Wraps the body of the response.
pub struct WrapBodyFuture<F>(F);

/// A body with an additional word.
pub struct WrappedBody<B>(B, usize);

impl<S> Layer<S> for WrapBodyLayer {
    type Service = WrapBody<S>;

    fn layer(&self, inner: S) -> WrapBody<S> {
        WrapBody(inner)
    }
}

impl<S, B, R> Service<Request<B>> for WrapBody<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Unpin,
{
    type Response = Response<WrappedBody<R>>;
    type Error = S::Error;
    type Future = WrapBodyFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        WrapBodyFuture(self.0.call(request))
    }
}

impl<F, R, E> Future for WrapBodyFuture<F>
where
    F: Future<Output = Result<Response<R>, E>> + Unpin,
{
    type Output = Result<Response<WrappedBody<R>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = Pin::new(&mut self.0).poll(cx);
        result.map_ok(|response| response.map(|body| WrappedBody(body, 1)))
    }
}

impl<B: Body + Unpin> Body for WrappedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        std::hint::black_box(self.1);
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
