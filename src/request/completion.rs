//! When a request is complete.
//!
//! | event | outcome |
//! |---|---|
//! | the body returns `None`, or reports its end | that of the status |
//! | the body has yielded as many bytes as it promised | that of the status |
//! | the response has no body: `HEAD`, 1xx, 204, 304, no bytes | that of the status |
//! | the service or the body returns an error | `error` |
//! | a poll unwinds | `panicked` |
//! | an instrumented task returns | `2xx` |
//! | dropped before any of these | `cancelled` |

use bytes::Buf;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame};

use crate::routes::MethodLabel;
use crate::shard::Outcome;

/// The progress of a request toward its end.
#[derive(Debug)]
pub(super) struct Completion {
    /// The outcome of the request if it is dropped now.
    outcome: Outcome,
    /// The outcome once the response is complete.
    on_complete: Outcome,
    /// The bytes of the body that are still to come; `UNKNOWN` if no length was announced.
    bytes_remaining: u64,
}

const UNKNOWN: u64 = u64::MAX;

impl Completion {
    pub(super) fn new() -> Self {
        Self {
            outcome: Outcome::Cancelled,
            on_complete: Outcome::Cancelled,
            bytes_remaining: UNKNOWN,
        }
    }

    #[inline]
    pub(super) fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Starts a new request. The response sets the other fields.
    #[inline]
    pub(super) fn start_request(&mut self) {
        self.outcome = Outcome::Cancelled;
    }

    /// Starts a new instrumented task.
    pub(super) fn start_task(&mut self) {
        self.outcome = Outcome::Cancelled;
        self.on_complete = Outcome::Success;
    }

    /// Records the head of the response. Returns whether the response has no body.
    #[inline]
    pub(super) fn on_response<B: Body>(
        &mut self,
        method: MethodLabel,
        response: &Response<B>,
    ) -> bool {
        let body = response.body();
        self.on_complete = Outcome::from_status(response.status());
        // The header is read only if the body does not know its length: the lookup costs more than
        // a poll.
        let length = body.size_hint().exact();
        self.bytes_remaining = length.unwrap_or_else(|| content_length(response.headers()));
        let has_no_body = method == MethodLabel::HEAD || is_bodiless(response.status());
        if has_no_body || self.bytes_remaining == 0 {
            self.on_end();
        } else if length.is_none() {
            self.on_unknown_length(body);
        }
        has_no_body
    }

    /// A body that does not know its length may have ended before it is polled.
    #[cold]
    fn on_unknown_length<B: Body>(&mut self, body: &B) {
        if body.is_end_stream() {
            self.on_end();
        }
    }

    /// Records a frame of the body. Returns whether it may be the last one.
    #[inline]
    pub(super) fn on_frame<D: Buf>(&mut self, frame: &Frame<D>) -> bool {
        let Some(data) = frame.data_ref() else { return true };
        if self.bytes_remaining == UNKNOWN {
            return true;
        }
        self.bytes_remaining = self.bytes_remaining.saturating_sub(data.remaining() as u64);
        if self.bytes_remaining == 0 {
            self.on_end();
        }
        self.bytes_remaining == 0
    }

    /// Records that the response, or the task, is complete.
    #[inline]
    pub(super) fn on_end(&mut self) {
        self.outcome = self.on_complete;
    }

    /// Records an error instead of the response or of the rest of it.
    #[inline]
    pub(super) fn on_error(&mut self) {
        self.outcome = Outcome::Error;
    }

    pub(super) fn on_panic(&mut self) {
        self.outcome = Outcome::Panicked;
    }
}

#[inline]
fn is_bodiless(status: StatusCode) -> bool {
    status.as_u16() < 200 || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

#[cold]
fn content_length(headers: &HeaderMap) -> u64 {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(UNKNOWN)
}
