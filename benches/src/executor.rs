//! Polls futures and bodies as a server would, without a runtime or a socket.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use axum::Router;
use axum::extract::Request;
use http_body::Body;
use tower::Service;

thread_local! {
    /// The waker of the pending future.
    static PENDING: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// A future that is pending a number of times. Like a socket it clones the waker at each wait, and
/// the wake consumes the clone.
struct Wait(usize);

/// The target of the wakers: waking it does nothing.
struct Task;

/// Returns the waker for the [`Context`] that the functions of this module take.
pub fn waker() -> Waker {
    Waker::from(Arc::new(Task))
}

/// Waits `times` times.
pub async fn wait(times: usize) -> &'static str {
    Wait(times).await
}

/// Calls the router and polls the response to completion, its body as far as hyper would.
#[inline(never)]
pub fn serve(router: &mut Router, request: Request, cx: &mut Context<'_>) {
    let mut call = pin!(Service::call(router, request));
    let response = loop {
        match call.as_mut().poll(cx) {
            Poll::Ready(Ok(response)) => break response,
            Poll::Ready(Err(never)) => match never {},
            Poll::Pending => wake_pending(),
        }
    };
    let mut body = pin!(response.into_body());
    while !body.is_end_stream() {
        match body.as_mut().poll_frame(cx) {
            Poll::Ready(None) => break,
            Poll::Ready(Some(_)) => {}
            Poll::Pending => wake_pending(),
        }
    }
}

/// Polls a future to completion.
pub fn block_on<F: Future>(future: F, cx: &mut Context<'_>) -> F::Output {
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => wake_pending(),
        }
    }
}

fn wake_pending() {
    PENDING.take().expect("a pending future has stored its waker").wake();
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        std::hint::black_box(&self);
    }
}

impl Future for Wait {
    type Output = &'static str;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<&'static str> {
        if self.0 == 0 {
            return Poll::Ready("hello");
        }
        self.0 -= 1;
        PENDING.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}
