//! How many reports a route may write: a bucket of tokens that fills over a minute.

use std::time::Duration;

/// The budget of one route.
#[derive(Debug)]
pub(super) struct Budget {
    tokens: f64,
    filled: Duration,
    suppressed: u64,
}

impl Budget {
    pub(super) fn new(per_minute: u32, now: Duration) -> Self {
        Self { tokens: f64::from(per_minute), filled: now, suppressed: 0 }
    }

    /// Whether a report may be written now, and how many were left out since the last one. `now` is since any fixed moment.
    pub(super) fn take(&mut self, per_minute: u32, now: Duration) -> Option<u64> {
        let full = f64::from(per_minute);
        let minutes = now.saturating_sub(self.filled).as_secs_f64() / 60.0;
        self.tokens = (self.tokens + minutes * full).min(full);
        self.filled = now;
        if self.tokens < 1.0 {
            self.suppressed += 1;
            return None;
        }
        self.tokens -= 1.0;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_then_one_each_time_it_refills_and_the_left_out_are_told() {
        let mut budget = Budget::new(10, Duration::ZERO);
        let mut at = |seconds| budget.take(10, Duration::from_secs(seconds));
        assert!((0..10).all(|_| at(0) == Some(0)));
        assert!((0..7).all(|_| at(0).is_none()));
        assert_eq!(at(6), Some(7));
        assert_eq!(at(6), None);
        assert_eq!(at(600), Some(1));
    }

    #[test]
    fn no_budget_is_no_report() {
        let mut budget = Budget::new(0, Duration::ZERO);
        assert_eq!(budget.take(0, Duration::from_secs(3_600)), None);
    }
}
