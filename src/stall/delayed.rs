use std::sync::Arc;
use std::time::Duration;

/// The requests of one route that a stall has delayed. Returned by
/// [`Stall::delayed`](crate::Stall::delayed).
///
/// ```
/// # fn example(stall: &tower_stall::Stall) {
/// for delayed in stall.delayed() {
///     println!(
///         "{} requests of {} {} by {:?} in total, at most {:?}",
///         delayed.requests(),
///         delayed.method(),
///         delayed.route(),
///         delayed.total(),
///         delayed.longest(),
///     );
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delayed {
    pub(crate) method: &'static str,
    pub(crate) route: Arc<str>,
    pub(crate) requests: u64,
    pub(crate) total: Duration,
    pub(crate) longest: Duration,
}

impl Delayed {
    /// Returns the method of the delayed requests; see [`Stall::method`](crate::Stall::method).
    #[must_use]
    pub fn method(&self) -> &str {
        self.method
    }

    /// Returns the route of the delayed requests; see [`Stall::route`](crate::Stall::route).
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }

    /// Returns how many requests were delayed; an estimate if there were more than a few thousand
    /// at once. A request that was delayed twice counts twice.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Returns the sum of their delays, as far as the stall is responsible for them.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.total
    }

    /// Returns the longest of these delays.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.longest
    }
}
