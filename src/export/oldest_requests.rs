//! The requests that are not polled, as of the last second.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::routes::RouteId;
use crate::state::MonitorState;

/// For each route that has one, the age of the last poll of the request that has waited longest.
///
/// Updated once a second: a scan of all requests in flight takes longer than the rest of a flush.
#[derive(Debug, Default)]
pub(super) struct OldestRequests {
    updated_at: Option<Instant>,
    by_route: HashMap<RouteId, Duration>,
}

impl OldestRequests {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// Scans the requests in flight, unless that has been done within the last second.
    pub(super) fn update(&mut self, monitor: &MonitorState) {
        let now = Instant::now();
        let is_due = |at: Instant| now.saturating_duration_since(at) >= Self::INTERVAL;
        if self.updated_at.is_none_or(is_due) {
            self.by_route = monitor.oldest_requests();
            self.updated_at = Some(now);
        }
    }

    pub(super) fn age(&self, route: RouteId) -> Duration {
        self.by_route.get(&route).copied().unwrap_or_default()
    }
}
