//! Requests, what answers them, and what drives them: no runtime, no socket, only the calls and polls that a server would make.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request};
use axum::routing::get;
use bytes::Bytes;
use http_body::{Body as _, Frame};
use tower::Service;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Work {
    /// Answered in one poll.
    Ready,
    /// Waits ten times before it is answered.
    Waits,
    /// A body of a hundred frames.
    Stream,
    /// No request: a task that waits ten times.
    Task,
}

pub const WAITS: usize = 10;
pub const FRAMES: usize = 100;

thread_local! {
    /// The waker of a future that waits, until somebody wakes it.
    static PARKED: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// Waits a number of times, as a socket would have it: the waker is cloned at each wait, and used up by the wake.
struct Wait(usize);

/// A body that has its frames ready.
struct Frames(usize);

/// A task of no runtime.
struct Task;

impl Work {
    pub fn path(self) -> &'static str {
        match self {
            Self::Ready => "/users/42",
            Self::Waits => "/waits/42",
            Self::Stream => "/stream/42",
            Self::Task => "/",
        }
    }

    pub fn request(self) -> Request {
        request(self.path())
    }
}

/// The routes, without any layer.
pub fn routes() -> Router {
    Router::new()
        .route("/users/{id}", get(async |Path(_): Path<u64>| "hello"))
        .route("/waits/{id}", get(async |Path(_): Path<u64>| Wait(WAITS).await))
        .route("/stream/{id}", get(async |Path(_): Path<u64>| Body::new(Frames(FRAMES))))
}

/// Further routes, so that there are `count` in all that are named `/route/{number}/{id}`.
pub fn many_routes(count: usize) -> Router {
    let paths = (0..count).map(|number| format!("/route/{number}/{{id}}"));
    paths.fold(Router::new(), |router, path| router.route(&path, get(async |Path(_): Path<u64>| "hello")))
}

pub fn request(path: &str) -> Request {
    http::Request::get(path).body(Body::empty()).expect("a path")
}

pub fn waker() -> Waker {
    Waker::from(Arc::new(Task))
}

/// Answers one request, to the end of the body as far as a server reads it.
#[inline(never)]
pub fn drive(router: &mut Router, request: Request, cx: &mut Context<'_>) {
    let mut call = pin!(Service::call(router, request));
    let response = loop {
        match call.as_mut().poll(cx) {
            Poll::Ready(Ok(response)) => break response,
            Poll::Ready(Err(never)) => match never {},
            Poll::Pending => wake_parked(),
        }
    };
    let mut body = pin!(response.into_body());
    while !body.is_end_stream() {
        match body.as_mut().poll_frame(cx) {
            Poll::Ready(None) => break,
            Poll::Ready(Some(_)) => {}
            Poll::Pending => wake_parked(),
        }
    }
}

/// Polls a future to its end.
pub fn drive_future<F: Future>(future: F, cx: &mut Context<'_>) -> F::Output {
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => wake_parked(),
        }
    }
}

/// Waits a number of times.
pub async fn wait(times: usize) -> &'static str {
    Wait(times).await
}

fn wake_parked() {
    PARKED.take().expect("what waits has parked its waker").wake();
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
        PARKED.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        self.0 -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"a frame")))))
    }
}
