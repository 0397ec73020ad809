//! Tests of the auto traits and the sizes of public types.
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
    Cause, Error, Instrumented, Phase, RouteStats, Stall, StallBody, StallFuture, StallLayer,
    StallMonitor, StallMonitorBuilder, StallService,
};

type SendFuture = Ready<()>;
type ThreadBound = Rc<()>;
type Pinned = PhantomPinned;

/// A body with the auto traits of `T`.
struct Holding<T>(PhantomData<T>);

impl<T> Body for Holding<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }
}

/// Evaluates to whether a type implements a trait.
///
/// An inherent associated constant takes precedence over that of a trait, and it only exists where
/// the bound is met.
macro_rules! has {
    ($type:ty: $($bound:tt)+) => {{
        struct Probe<T: ?Sized>(std::marker::PhantomData<T>);
        #[allow(dead_code)]
        trait Lacks {
            const HAS: bool = false;
        }
        impl<T: ?Sized> Lacks for Probe<T> {}
        #[allow(dead_code)]
        impl<T: ?Sized + $($bound)+> Probe<T> {
            const HAS: bool = true;
        }
        <Probe<$type>>::HAS
    }};
}

/// They are one pointer each, and so cheap to clone.
#[test]
fn handles_are_shared_by_threads() {
    assert!(has!(StallMonitor: Clone + Send + Sync + Debug + 'static));
    assert!(has!(StallLayer: Clone + Send + Sync + Debug + 'static));
    assert!(has!(StallService<SendFuture>: Clone + Send + Sync + 'static));
    assert!(has!(StallMonitorBuilder: Send + Debug + 'static));
    assert_eq!(size_of::<StallMonitor>(), size_of::<usize>());
    assert_eq!(size_of::<StallLayer>(), size_of::<usize>());
    assert_eq!(size_of::<StallService<()>>(), size_of::<usize>());
}

#[test]
fn wrappers_are_send_if_the_inner_is() {
    assert!(has!(StallFuture<SendFuture>: Send + Sync + 'static));
    assert!(has!(StallBody<Holding<SendFuture>>: Send + Sync + 'static));
    assert!(has!(Instrumented<SendFuture>: Send + Sync + 'static));
    assert!(!has!(StallFuture<ThreadBound>: Send));
    assert!(!has!(StallBody<Holding<ThreadBound>>: Send));
    assert!(!has!(Instrumented<ThreadBound>: Send));
    assert!(!has!(StallService<ThreadBound>: Send));
}

#[test]
fn wrappers_are_unpin_if_the_inner_is() {
    assert!(has!(StallFuture<SendFuture>: Unpin));
    assert!(has!(StallBody<Holding<SendFuture>>: Unpin));
    assert!(has!(Instrumented<SendFuture>: Unpin));
    assert!(!has!(StallFuture<Pinned>: Unpin));
    assert!(!has!(StallBody<Holding<Pinned>>: Unpin));
    assert!(!has!(Instrumented<Pinned>: Unpin));
}

#[test]
fn stalls_and_statistics_are_plain_values() {
    assert!(has!(Stall: Clone + Debug + Display + Send + Sync + 'static));
    assert!(has!(RouteStats: Clone + Debug + Send + Sync + 'static));
    assert!(has!(Cause: Copy + Eq + std::hash::Hash + Debug + Send + Sync));
    assert!(has!(Phase: Copy + Eq + std::hash::Hash + Debug + Send + Sync));
}

#[test]
fn errors_convert_with_the_question_mark_operator() {
    assert!(has!(Error: std::error::Error + Send + Sync + 'static));
    assert!(has!(tower_stall::prometheus::ServeError: std::error::Error + Send + Sync + 'static));
}

#[test]
fn a_wrapper_adds_one_word() {
    assert_eq!(size_of::<StallFuture<()>>(), size_of::<usize>());
    assert_eq!(size_of::<Instrumented<()>>(), size_of::<usize>());
    assert_eq!(size_of::<StallBody<Holding<()>>>(), size_of::<usize>());
}
