//! A response body that follows a script.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};

/// The message of the error and of the panic that a script asks for.
pub(crate) const SCRIPTED: &str = "scripted";

/// A body that performs one step per poll, then ends.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) steps: VecDeque<Step>,
    /// Whether `is_end_stream` is `true` once no step is left.
    pub(crate) reports_end: bool,
    /// Whether `size_hint` is exact.
    pub(crate) reports_size: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Yields a frame of this many bytes.
    Data(usize),
    /// Is pending once.
    Wait,
    Fail,
    Panic,
}

impl Script {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), ..Self::default() }
    }

    pub(crate) fn response(self) -> Result<Response<Self>, Infallible> {
        Ok(Response::new(self))
    }

    fn bytes_left(&self) -> usize {
        self.steps.iter().map(|step| if let Step::Data(size) = step { *size } else { 0 }).sum()
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(match self.steps.pop_front() {
            Some(Step::Data(size)) => Some(Ok(Frame::data(vec![b'x'; size].into()))),
            Some(Step::Wait) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Step::Fail) => Some(Err(io::Error::other(SCRIPTED))),
            Some(Step::Panic) => panic!("{SCRIPTED}"),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.reports_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.reports_size {
            SizeHint::with_exact(self.bytes_left() as u64)
        } else {
            SizeHint::new()
        }
    }
}
