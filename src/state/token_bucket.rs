//! A token bucket, for the rate of reports and of samples.

use std::time::Duration;

/// Tokens that are refilled at a rate, up to a capacity.
///
/// The caller passes in the rate and the capacity, because both can depend on the load, and the
/// time, so that tests can set it.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    tokens: f64,
    refilled: Duration,
}

impl TokenBucket {
    /// Creates a bucket with some tokens. `now` is the time since an arbitrary moment.
    pub(crate) fn new(tokens: f64, now: Duration) -> Self {
        Self { tokens, refilled: now }
    }

    pub(crate) fn refill(&mut self, per_second: f64, capacity: f64, now: Duration) {
        let elapsed = now.saturating_sub(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * per_second).min(capacity);
        self.refilled = now;
    }

    /// Takes a number of tokens if there are as many.
    pub(crate) fn try_take(&mut self, tokens: f64) -> bool {
        let is_available = self.tokens >= tokens;
        if is_available {
            self.tokens -= tokens;
        }
        is_available
    }

    /// Takes up to a number of tokens, and returns how many.
    pub(crate) fn take_up_to(&mut self, tokens: f64) -> f64 {
        let taken = self.tokens.min(tokens);
        self.tokens -= taken;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_refills_at_its_rate_up_to_its_capacity() {
        let mut bucket = TokenBucket::new(2.0, Duration::ZERO);
        assert!(bucket.try_take(2.0));
        assert!(!bucket.try_take(1.0));
        bucket.refill(0.5, 2.0, Duration::from_secs(2));
        assert!(bucket.try_take(1.0));
        assert!(!bucket.try_take(1.0));
        bucket.refill(0.5, 2.0, Duration::from_secs(60));
        assert_eq!(bucket.take_up_to(5.0), 2.0);
        assert_eq!(bucket.take_up_to(5.0), 0.0);
    }
}
