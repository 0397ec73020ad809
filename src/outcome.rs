//! How a request ended, and in which of its two phases a poll was.

use http::StatusCode;

/// The phase of a request that a poll belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Phase {
    /// `Service::call` and the polls of the response future, or of an instrumented task.
    Handler = 0,
    /// The polls of the response body.
    Body = 1,
}

/// The `outcome` of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Informational,
    /// Also an instrumented task that ran to its end.
    Success,
    Redirection,
    ClientError,
    ServerError,
    /// The service or the body returned an error.
    Error,
    /// Dropped before its end.
    Cancelled,
    Panicked,
}

impl Phase {
    pub(crate) const ALL: [Self; 2] = [Self::Handler, Self::Body];

    /// The value of the label `phase`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handler => "handler",
            Self::Body => "body",
        }
    }
}

impl Outcome {
    pub(crate) const ALL: [Self; 8] = [
        Self::Informational,
        Self::Success,
        Self::Redirection,
        Self::ClientError,
        Self::ServerError,
        Self::Error,
        Self::Cancelled,
        Self::Panicked,
    ];

    /// The outcome of an answer that is complete. Statuses past 599 count as the server's error.
    #[inline]
    pub(crate) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            ..200 => Self::Informational,
            200..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "1xx",
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
            Self::Panicked => "panicked",
        }
    }
}
