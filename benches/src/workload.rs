//! The requests that are measured, and the routes that serve them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request};
use axum::routing::get;
use bytes::Bytes;
use http_body::Frame;

use crate::executor;

/// A kind of request, or a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Workload {
    /// A request whose future is ready at its first poll.
    Ready,
    /// A request that waits [`WAITS`] times.
    Waits,
    /// A request whose response body has [`FRAMES`] frames.
    Stream,
    /// A task, not a request, that waits [`WAITS`] times.
    Task,
}

pub const WAITS: usize = 10;
pub const FRAMES: usize = 100;

/// A body whose frames are always ready.
struct Frames(usize);

impl Workload {
    pub fn request(self) -> Request {
        request(match self {
            Self::Ready => "/users/42",
            Self::Waits => "/waits/42",
            Self::Stream => "/stream/42",
            Self::Task => "/",
        })
    }
}

/// Returns a router for every [`Workload`], without layers.
pub fn router() -> Router {
    Router::new()
        .route("/users/{id}", get(async |Path(_): Path<u64>| "hello"))
        .route("/waits/{id}", get(async |Path(_): Path<u64>| executor::wait(WAITS).await))
        .route("/stream/{id}", get(async |Path(_): Path<u64>| Body::new(Frames(FRAMES))))
}

/// Returns a router with `count` routes `/route/{number}/{id}`.
pub fn router_with_routes(count: usize) -> Router {
    let paths = (0..count).map(|number| format!("/route/{number}/{{id}}"));
    paths.fold(Router::new(), |router, path| {
        router.route(&path, get(async |Path(_): Path<u64>| "hello"))
    })
}

pub fn request(path: &str) -> Request {
    http::Request::get(path).body(Body::empty()).expect("a valid path")
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        self.0 -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"a frame")))))
    }
}
