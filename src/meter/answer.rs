//! When an answer is complete, though nobody may poll its body to the end: it has none, or it has given all that it promised.

use bytes::Buf;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame};

use super::Meter;
use crate::outcome::Outcome;
use crate::own::Record;
use crate::routes::Method;

/// Bytes to come where nobody says how many.
const UNKNOWN: u64 = u64::MAX;

impl Record {
    /// The head of the answer is there. Whether that is all of it.
    #[inline]
    fn answered<B: Body>(&mut self, response: &Response<B>) -> bool {
        let account = &mut self.account;
        account.complete = Outcome::of(response.status());
        // The header is asked only where the body does not know: a look into the map costs more than a poll.
        let length = response.body().size_hint().exact();
        account.to_come = length.unwrap_or_else(|| promised(response.headers()));
        let is_all = account.method == Method::HEAD || is_bodiless(response.status());
        if is_all || account.to_come == 0 {
            self.completed();
        }
        is_all
    }

    /// A frame of the body is there. Whether it may be the last one.
    #[inline]
    pub(crate) fn sent<D: Buf>(&mut self, frame: &Frame<D>) -> bool {
        let Some(data) = frame.data_ref() else { return true };
        if self.account.to_come == UNKNOWN {
            return true;
        }
        self.account.to_come = self.account.to_come.saturating_sub(data.remaining() as u64);
        if self.account.to_come == 0 {
            self.completed();
        }
        self.account.to_come == 0
    }

    /// There is no more to come.
    #[inline]
    pub(crate) fn completed(&mut self) {
        self.account.outcome = self.account.complete;
    }

    /// There is an error in place of the answer or of the rest of it.
    #[inline]
    pub(crate) fn failed(&mut self) {
        self.account.outcome = Outcome::Error;
    }
}

impl Meter {
    /// Takes the meter from the future, for the body: it measures nothing any more if there is none.
    #[inline]
    pub(crate) fn for_body<B: Body>(&mut self, response: &Response<B>) -> Self {
        let mut meter = std::mem::take(self);
        if meter.0.as_mut().is_some_and(|record| record.answered(response)) {
            meter.end_early();
        }
        meter
    }

    #[cold]
    fn end_early(&mut self) {
        self.end();
    }

    /// Ends the request, which has no answer. What is left for its body.
    #[cold]
    pub(crate) fn for_error(&mut self) -> Self {
        if let Some(record) = &mut self.0 {
            record.failed();
        }
        self.end();
        Self::default()
    }

    /// What it measures, where nobody has said yet that it is over.
    #[inline]
    pub(crate) fn incomplete(&mut self) -> Option<&mut Record> {
        self.0.as_deref_mut().filter(|record| record.account.outcome == Outcome::Cancelled)
    }
}

#[inline]
fn is_bodiless(status: StatusCode) -> bool {
    status.as_u16() < 200 || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// How many bytes the answer's header promises.
#[cold]
fn promised(headers: &HeaderMap) -> u64 {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(UNKNOWN)
}
