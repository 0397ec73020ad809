//! When an answer is complete, though nobody may poll its body to the end: it has none, or it has given all that it promised.

use bytes::Buf;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame};

use super::Meter;
use crate::outcome::Outcome;
use crate::own::Record;

impl Record {
    /// The head of the answer is there.
    #[inline]
    fn answered<B: Body>(&mut self, response: &Response<B>) {
        self.account.complete = Outcome::of(response.status());
        // The header is asked only where the body does not know: a look into the map costs more than a poll.
        let length = response.body().size_hint().exact();
        self.account.to_come = length.unwrap_or_else(|| promised(response.headers()));
        self.count_if_all_came();
    }

    /// A frame of the body is there.
    #[inline]
    pub(crate) fn sent<D: Buf>(&mut self, frame: &Frame<D>) {
        if let Some(data) = frame.data_ref() {
            self.account.to_come = self.account.to_come.saturating_sub(data.remaining() as u64);
            self.count_if_all_came();
        }
    }

    #[inline]
    fn count_if_all_came(&mut self) {
        if self.account.to_come == 0 {
            self.account.outcome = self.account.complete;
        }
    }
}

impl Meter {
    /// Takes the meter from the future, for the body: it measures nothing any more if there is none.
    #[inline]
    pub(crate) fn for_body<B: Body>(&mut self, response: &Response<B>) -> Self {
        let mut meter = std::mem::take(self);
        if let Some(record) = &mut meter.0 {
            record.answered(response);
            if record.account.is_head || is_bodiless(response.status()) {
                meter.complete();
            }
        }
        meter
    }

    /// Ends the request: there is no answer, but an error.
    #[cold]
    pub(crate) fn failed(&mut self) -> Self {
        self.end(Outcome::Error);
        Self::default()
    }

    /// Whether the body is still to say that it has ended.
    #[inline]
    pub(crate) fn is_incomplete(&self) -> bool {
        self.0.as_ref().is_some_and(|record| record.account.outcome == Outcome::Cancelled)
    }

    /// Ends the request: its answer is complete.
    #[inline]
    pub(crate) fn complete(&mut self) {
        if let Some(record) = &self.0 {
            self.end(record.account.complete);
        }
    }
}

#[inline]
fn is_bodiless(status: StatusCode) -> bool {
    status.as_u16() < 200 || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// How many bytes the answer's header promises, `u64::MAX` where it does not say.
#[cold]
fn promised(headers: &HeaderMap) -> u64 {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(u64::MAX)
}
