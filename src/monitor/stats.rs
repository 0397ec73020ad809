use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::board::Board;
use crate::cells::{BOUNDS_NANOS, Samples, Totals};
use crate::routes::Route;
use crate::shared::Shared;

/// What one route has done so far. From [`StallMonitor::routes`](crate::StallMonitor::routes).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RouteStats {
    method: &'static str,
    name: Arc<str>,
    started: u64,
    ended: u64,
    polls: Samples,
    longest_poll: Duration,
    stalls: u64,
    stolen: Duration,
    stalled_for: Option<Duration>,
}

impl RouteStats {
    pub(super) fn all(shared: &Shared, board: &Board) -> Vec<Self> {
        let stats = shared.routes.iter().filter_map(|(id, route)| {
            let totals = shared.totals(id);
            let mut stalls = totals.unreported_stalls;
            let found = board.read();
            found.stalls.get(&id).into_iter().flat_map(HashMap::values).for_each(|more| stalls.merge(more));
            let now = shared.stalled().filter(|stalled| stalled.poll.route == id).map(|stalled| stalled.age).max();
            // What is unattributed has no requests.
            let is_seen = totals.started > 0 || stalls.count() > 0 || now.is_some();
            is_seen.then(|| Self::new(shared, route, &totals, &stalls, now))
        });
        stats.collect()
    }

    fn new(shared: &Shared, route: &Route, totals: &Totals, stalls: &Samples, stalled_for: Option<u64>) -> Self {
        let polls = totals.all_polls();
        Self {
            method: route.method,
            name: Arc::clone(&route.name),
            started: totals.started,
            ended: totals.ended(),
            longest_poll: longest_poll(shared, totals, &polls),
            polls,
            stalls: stalls.count(),
            stolen: shared.clock.duration(stalls.ticks()),
            stalled_for: stalled_for.map(|age| shared.clock.duration(age)),
        }
    }

    /// The method, as in the label.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method
    }

    /// The route, as in the label.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.name
    }

    /// Requests that have begun.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.started
    }

    /// Requests that have not ended yet.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.started - self.ended
    }

    /// Polls that have ended, of handler and body.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.polls.count()
    }

    /// A bound that the given share of all polls did not exceed: the upper end of the histogram's bucket, or the longest poll where
    /// that is less. `None` before the first poll has ended.
    #[must_use]
    pub fn poll_quantile(&self, quantile: f64) -> Option<Duration> {
        let bucket = self.polls.quantile(quantile)?;
        let bound = BOUNDS_NANOS.get(bucket).map_or(Duration::MAX, |&nanos| Duration::from_nanos(nanos));
        Some(bound.min(self.longest_poll))
    }

    /// The longest poll that has ended. Polls of up to 0.1 ms are not told apart: 0.1 ms where there were no others.
    #[must_use]
    pub fn longest_poll(&self) -> Duration {
        self.longest_poll
    }

    /// Stalls that have ended.
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.stalls
    }

    /// How long all stalls that have ended held their threads, together.
    #[must_use]
    pub fn stolen(&self) -> Duration {
        self.stolen
    }

    /// The age of the oldest stall that goes on now.
    #[must_use]
    pub fn stalled_for(&self) -> Option<Duration> {
        self.stalled_for
    }
}

fn longest_poll(shared: &Shared, totals: &Totals, polls: &Samples) -> Duration {
    // Only those past the first bucket are kept, as that costs each poll something.
    match totals.longest_poll {
        0 if polls.count() > 0 => Duration::from_nanos(BOUNDS_NANOS[0]),
        ticks => shared.clock.duration(ticks),
    }
}
