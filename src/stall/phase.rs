use std::fmt;

/// The phase of a request that a poll belongs to.
///
/// ```
/// use tower_stall::Phase;
///
/// assert_eq!(Phase::Handler.as_str(), "handler");
/// assert_eq!(Phase::Body.to_string(), "body");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Phase {
    /// `Service::call` and the polls of the response future, or of an instrumented task.
    Handler = 0,
    /// The polls of the response body.
    Body = 1,
}

impl Phase {
    pub(crate) const ALL: [Self; 2] = [Self::Handler, Self::Body];

    /// Returns the value of the label `phase`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handler => "handler",
            Self::Body => "body",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
