//! The metrics of a test binary: its one recorder, and what a scrape of it shows.

use std::net::SocketAddr;
use std::sync::OnceLock;

use tower_stall::{StallMonitor, StallMonitorBuilder};

use super::{Scrape, http_get, poll_until};

const OUTCOMES: [&str; 8] = ["1xx", "2xx", "3xx", "4xx", "5xx", "error", "cancelled", "panicked"];

/// Installs the process-wide recorder on the first call, and returns the address it is served at.
pub(crate) fn install_recorder() -> SocketAddr {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    let serve = || tower_stall::prometheus::serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
    *SERVER.get_or_init(serve)
}

/// Scrapes the process-wide recorder over a socket.
pub(crate) fn scrape() -> Scrape {
    Scrape(http_get(install_recorder(), "/metrics").body)
}

/// Returns a builder for a monitor whose metrics can be scraped from its first request on.
pub(crate) fn builder() -> StallMonitorBuilder {
    install_recorder();
    StallMonitor::builder()
}

/// Returns a builder for a monitor that uses the path of a request as its route.
pub(crate) fn by_path() -> StallMonitorBuilder {
    builder().route_label(|request| Some(request.uri().path().to_owned().into()))
}

impl Scrape {
    /// Returns whether there is a series of this name that has all of these labels.
    pub(crate) fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.values(name, labels).next().is_some()
    }

    /// Returns the outcomes of a route's requests, without those that never occurred.
    pub(crate) fn outcomes(&self, route: &str) -> Vec<(&'static str, u64)> {
        let count = |outcome| {
            let labels = [("route", route), ("outcome", outcome)];
            self.sum("tower_stall_requests_total", &labels) as u64
        };
        let outcomes = OUTCOMES.map(|outcome| (outcome, count(outcome)));
        outcomes.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Returns the gauge of a route's requests in flight.
    pub(crate) fn in_flight(&self, route: &str) -> u64 {
        self.sum("tower_stall_requests_in_flight", &[("route", route)]) as u64
    }

    /// Panics if the text contains `needle` anywhere.
    #[track_caller]
    pub(crate) fn assert_lacks(&self, needle: &str) {
        assert!(!self.0.contains(needle), "{needle} is in the scraped text");
    }
}

/// Waits until a scrape shows exactly these outcomes of a route, and no request of it in flight.
#[track_caller]
pub(crate) fn assert_outcomes(route: &str, expected: &[(&str, u64)]) {
    let mut last = Vec::new();
    let total: u64 = expected.iter().map(|(_, count)| count).sum();
    let seen = poll_until(|| {
        let now = scrape();
        last = now.outcomes(route);
        let ended: u64 = last.iter().map(|(_, count)| count).sum();
        (ended >= total && now.in_flight(route) == 0).then(|| last.clone())
    });
    let seen = seen.unwrap_or(last);
    assert_eq!(seen, expected, "the outcomes of {route}");
}
