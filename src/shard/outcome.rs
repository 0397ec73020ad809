use http::StatusCode;

/// How a request ended; the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Informational,
    /// Also an instrumented task that has completed.
    Success,
    Redirection,
    ClientError,
    ServerError,
    /// The service or the response body returned an error.
    Error,
    /// Dropped before it was complete.
    Cancelled,
    Panicked,
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

    /// Returns the outcome of a complete response. Statuses above 599 count as server errors.
    #[inline]
    pub(crate) fn from_status(status: StatusCode) -> Self {
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
