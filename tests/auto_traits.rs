//! What may go where: between threads, and out of a pin.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(feature = "prometheus")]

use std::convert::Infallible;
use std::fmt::{Debug, Display};
use std::future::Ready;
use std::marker::{PhantomData, PhantomPinned};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tower_stall::{
    Cause, Phase, RouteStats, SpawnError, Stall, StallBody, StallFuture, StallLayer, StallMonitor, StallMonitorBuilder,
    StallService, StallTask, ThresholdError,
};

type Movable = Ready<()>;
type ThreadBound = Rc<()>;
type Pinned = PhantomPinned;

/// A body that is as movable as what it holds.
struct Holding<T>(PhantomData<T>);

impl<T> Body for Holding<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }
}

/// Whether a type has a trait, asked in a way that has an answer for those that have not, too.
macro_rules! has {
    ($type:ty: $($bound:tt)+) => {{
        struct Asked<T: ?Sized>(std::marker::PhantomData<T>);
        #[allow(dead_code)]
        trait Lacks {
            const ANSWER: bool = false;
        }
        impl<T: ?Sized> Lacks for Asked<T> {}
        #[allow(dead_code)]
        impl<T: ?Sized + $($bound)+> Asked<T> {
            const ANSWER: bool = true;
        }
        <Asked<$type>>::ANSWER
    }};
}

/// A test that the handles go to any thread and are cheap to give to each.
#[test]
fn handles_are_shared_by_threads() {
    assert!(has!(StallMonitor: Clone + Send + Sync + Debug + 'static));
    assert!(has!(StallLayer: Clone + Send + Sync + Debug + 'static));
    assert!(has!(StallService<Movable>: Clone + Send + Sync + 'static));
    assert!(has!(StallMonitorBuilder: Send + Debug + 'static));
    assert_eq!(size_of::<StallMonitor>(), size_of::<usize>());
    assert_eq!(size_of::<StallLayer>(), size_of::<usize>());
    assert_eq!(size_of::<StallService<()>>(), size_of::<usize>());
}

/// A test that what wraps a future or a body goes to other threads where that does, and only there.
#[test]
fn wrappers_are_as_movable_as_what_they_wrap() {
    assert!(has!(StallFuture<Movable>: Send + Sync + 'static));
    assert!(has!(StallBody<Holding<Movable>>: Send + Sync + 'static));
    assert!(has!(StallTask<Movable>: Send + Sync + 'static));
    assert!(!has!(StallFuture<ThreadBound>: Send));
    assert!(!has!(StallBody<Holding<ThreadBound>>: Send));
    assert!(!has!(StallTask<ThreadBound>: Send));
    assert!(!has!(StallService<ThreadBound>: Send));
}

/// A test that what wraps a future or a body may leave a pin where that may, and only there.
#[test]
fn wrappers_are_unpin_where_the_inner_is() {
    assert!(has!(StallFuture<Movable>: Unpin));
    assert!(has!(StallBody<Holding<Movable>>: Unpin));
    assert!(has!(StallTask<Movable>: Unpin));
    assert!(!has!(StallFuture<Pinned>: Unpin));
    assert!(!has!(StallBody<Holding<Pinned>>: Unpin));
    assert!(!has!(StallTask<Pinned>: Unpin));
}

/// A test that a stall is a value to keep, send and print.
#[test]
fn a_stall_is_a_value() {
    assert!(has!(Stall: Clone + Debug + Display + Send + Sync + 'static));
    assert!(has!(RouteStats: Clone + Debug + Send + Sync + 'static));
    assert!(has!(Cause: Copy + Eq + std::hash::Hash + Debug + Send + Sync));
    assert!(has!(Phase: Copy + Eq + std::hash::Hash + Debug + Send + Sync));
}

/// A test that errors go through `?` into anybody's error type.
#[test]
fn errors_are_errors() {
    assert!(has!(SpawnError: std::error::Error + Send + Sync + 'static));
    assert!(has!(ThresholdError: std::error::Error + Send + Sync + 'static));
    assert!(has!(tower_stall::prometheus::ServeError: std::error::Error + Send + Sync + 'static));
}

/// A test that a measured future, task or body is one word bigger than its inner one.
#[test]
fn the_overhead_is_one_word() {
    assert_eq!(size_of::<StallFuture<()>>(), size_of::<usize>());
    assert_eq!(size_of::<StallTask<()>>(), size_of::<usize>());
    assert_eq!(size_of::<StallBody<Holding<()>>>(), size_of::<usize>());
}
