//! How many reports each line of a route may write.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::stall::{Location, Stall};
use crate::state::TokenBucket;

/// A token bucket per key, so that one noisy handler never silences another.
#[derive(Debug)]
pub(super) struct RateLimiter {
    per_minute: u32,
    limits: HashMap<RateKey, RateLimit>,
}

/// The line of a route, or the route if no line is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RateKey {
    method: &'static str,
    route: Arc<str>,
    location: Option<Location>,
}

#[derive(Debug)]
struct RateLimit {
    bucket: TokenBucket,
    suppressed: u64,
}

impl RateLimiter {
    /// Upper bound on tracked locations. Once there are as many, all stalls share the limit of
    /// their route.
    const MAX_LOCATIONS: usize = 4096;

    pub(super) fn new(per_minute: u32) -> Self {
        Self { per_minute, limits: HashMap::new() }
    }

    /// Returns whether a stall may be reported now, with the number of reports of its key that were
    /// suppressed since the last one. `now` is the time since an arbitrary moment.
    pub(super) fn acquire(&mut self, stall: &Stall, now: Duration) -> Option<u64> {
        let capacity = f64::from(self.per_minute);
        let limit = self.limit(stall, now);
        limit.bucket.refill(capacity / 60.0, capacity, now);
        if limit.bucket.try_take(1.0) {
            Some(std::mem::take(&mut limit.suppressed))
        } else {
            limit.suppressed += 1;
            None
        }
    }

    /// Takes back the number of a report that was not written, for the next one of its key.
    pub(super) fn give_back(&mut self, stall: &Stall, suppressed: u64, now: Duration) {
        self.limit(stall, now).suppressed += suppressed;
    }

    fn limit(&mut self, stall: &Stall, now: Duration) -> &mut RateLimit {
        let location = stall.location().filter(|_| self.limits.len() < Self::MAX_LOCATIONS);
        let key = RateKey {
            method: stall.method,
            route: Arc::clone(&stall.route),
            location: location.cloned(),
        };
        let capacity = f64::from(self.per_minute);
        self.limits
            .entry(key)
            .or_insert_with(|| RateLimit { bucket: TokenBucket::new(capacity, now), suppressed: 0 })
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
impl RateLimiter {
    /// Returns how many reports of a key may be written now.
    pub(super) fn tokens(&mut self, stall: &Stall, now: Duration) -> f64 {
        let capacity = f64::from(self.per_minute);
        let bucket = &mut self.limit(stall, now).bucket;
        let tokens = bucket.take_up_to(capacity);
        *bucket = TokenBucket::new(tokens, now);
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stall::Frame;

    fn stall_at(line: u32) -> Stall {
        let location = Some(Location { file: "src/report.rs".into(), line });
        Stall::for_tests([Frame {
            function: "report".into(),
            location,
            is_application: true,
            ..Frame::default()
        }])
    }

    #[test]
    fn suppressed_reports_are_counted_in_the_next_one() {
        let mut limiter = RateLimiter::new(10);
        let mut at = |seconds| limiter.acquire(&stall_at(7), Duration::from_secs(seconds));
        assert!((0..10).all(|_| at(0) == Some(0)));
        assert!((0..7).all(|_| at(0).is_none()));
        assert_eq!(at(7), Some(7));
        assert_eq!(at(7), None);
        assert_eq!(at(600), Some(1));
    }

    #[test]
    fn a_report_that_is_not_written_leaves_its_number_to_the_next_one() {
        let mut limiter = RateLimiter::new(2);
        assert_eq!(limiter.acquire(&stall_at(7), Duration::ZERO), Some(0));
        assert_eq!(limiter.acquire(&stall_at(7), Duration::ZERO), Some(0));
        assert_eq!(limiter.acquire(&stall_at(7), Duration::ZERO), None);
        let later = Duration::from_secs(600);
        assert_eq!(limiter.acquire(&stall_at(7), later), Some(1));
        limiter.give_back(&stall_at(7), 1, later);
        assert_eq!(limiter.acquire(&stall_at(7), later), Some(1));
    }

    #[test]
    fn each_line_of_a_route_has_a_limit_of_its_own() {
        let mut limiter = RateLimiter::new(1);
        let mut at = |line| limiter.acquire(&stall_at(line), Duration::ZERO);
        assert_eq!(at(7), Some(0));
        assert_eq!(at(7), None);
        assert_eq!(at(8), Some(0));
    }

    #[test]
    fn a_limit_of_zero_suppresses_every_report() {
        let mut limiter = RateLimiter::new(0);
        assert_eq!(limiter.acquire(&stall_at(7), Duration::from_secs(3_600)), None);
    }
}
