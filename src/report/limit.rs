//! How many reports a culprit may write: a bucket of tokens that fills over a minute.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::stall::{Location, Stall};

/// The budgets of all culprits, each its own, so that one noisy handler never silences another.
#[derive(Debug)]
pub(super) struct Budgets {
    per_minute: u32,
    began: Instant,
    budgets: HashMap<Culprit, Budget>,
}

/// Who is to blame: the line of a route, or the route where no line is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Culprit {
    method: &'static str,
    route: Arc<str>,
    location: Option<Location>,
}

/// The budget of one culprit.
#[derive(Debug)]
struct Budget {
    tokens: f64,
    filled: Duration,
    suppressed: u64,
}

// === impl Budgets ===

impl Budgets {
    /// Culprits that are told apart by their line. There are no more lines in a program that block, one should hope.
    const LINES: usize = 4096;

    pub(super) fn new(per_minute: u32) -> Self {
        Self { per_minute, began: Instant::now(), budgets: HashMap::new() }
    }

    /// Whether a stall may be reported now, and how many reports of its culprit were left out since the last one.
    pub(super) fn take(&mut self, stall: &Stall) -> Option<u64> {
        let (limit, now) = (self.per_minute, self.began.elapsed());
        let location = stall.location().filter(|_| self.budgets.len() < Self::LINES).cloned();
        let culprit = Culprit { method: stall.method, route: Arc::clone(&stall.route), location };
        self.budgets.entry(culprit).or_insert_with(|| Budget::new(limit, now)).take(limit, now)
    }
}

// === impl Budget ===

impl Budget {
    fn new(per_minute: u32, now: Duration) -> Self {
        Self { tokens: f64::from(per_minute), filled: now, suppressed: 0 }
    }

    /// Whether a report may be written now, and how many were left out since the last one. `now` is since any fixed moment.
    fn take(&mut self, per_minute: u32, now: Duration) -> Option<u64> {
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
    use crate::stall::Frame;

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
    fn two_lines_of_a_route_have_a_budget_each() {
        let at = |line| {
            let location = Some(Location { file: "src/report.rs".into(), line });
            Stall::for_tests([Frame { function: "report".into(), location, is_application: true }])
        };
        let mut budgets = Budgets::new(1);
        assert_eq!(budgets.take(&at(7)), Some(0));
        assert_eq!(budgets.take(&at(7)), None);
        assert_eq!(budgets.take(&at(8)), Some(0), "another culprit");
    }

    #[test]
    fn no_budget_is_no_report() {
        let mut budget = Budget::new(0, Duration::ZERO);
        assert_eq!(budget.take(0, Duration::from_secs(3_600)), None);
    }
}
