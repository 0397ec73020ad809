//! All routes of a monitor: reads what has changed of them, and hands it over to their rows.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::flush::Flush;
use super::gauges::Gauges;
use super::oldest_requests::OldestRequests;
use super::oldest_stalls::OldestStalls;
use super::route::{GaugeValues, RouteGauges, RouteSeries, RouteSnapshot};
use super::sample_budget::SampleBudget;
use crate::routes::RouteId;
use crate::state::{MonitorState, RouteDelays};

#[derive(Debug)]
pub(super) struct RoutesExporter {
    routes: BTreeMap<RouteId, ExportedRoute>,
    /// By row.
    gauges: BTreeMap<RouteId, RouteGauges>,
    budget: SampleBudget,
    created_at: Instant,
}

/// A route, as of the last time that it was read.
#[derive(Debug)]
struct ExportedRoute {
    snapshot: RouteSnapshot,
    /// The changes that the snapshot includes, and maybe more.
    changes: u64,
    /// How many of its polls the reporter had accounted for.
    reported: u64,
    /// The delays that the reporter had accounted for.
    delays: RouteDelays,
    /// Whether a part of the snapshot was not handed over.
    is_pending: bool,
    /// The route in whose rows the figures are.
    row: RouteId,
    /// `None` before the route is used.
    series: Option<RouteSeries>,
}

// === impl RoutesExporter ===

impl RoutesExporter {
    pub(super) fn new() -> Self {
        Self {
            routes: BTreeMap::new(),
            gauges: BTreeMap::new(),
            budget: SampleBudget::new(Duration::ZERO),
            created_at: Instant::now(),
        }
    }

    /// Reads the routes that have changed since they were read last: all of them, or those that are
    /// new or of which a stall has ended.
    pub(super) fn read(&mut self, monitor: &MonitorState, is_of_all: bool) {
        let reported = reported_polls(monitor);
        for (id, _) in monitor.routes.iter() {
            let reported = reported.get(&id).copied().unwrap_or_default();
            let known = self.routes.get(&id);
            if is_of_all || known.is_none_or(|route| route.reported != reported) {
                self.read_route(monitor, id, reported);
            }
        }
    }

    /// Returns how many requests a route had when it was read last.
    #[cfg(test)]
    pub(super) fn started(&self, id: RouteId) -> u64 {
        self.routes.get(&id).map_or(0, |route| route.snapshot.totals.started)
    }

    fn read_route(&mut self, monitor: &MonitorState, id: RouteId, reported: u64) {
        // Before the rest is read: what changes in between is read again.
        let changes = monitor.counters.changes(id);
        let delays = monitor.history.lock().delays.of(id);
        let route = self.routes.entry(id).or_insert_with(|| ExportedRoute::new(id));
        if (changes, reported, delays) != (route.changes, route.reported, route.delays) {
            (route.changes, route.reported, route.delays) = (changes, reported, delays);
            route.is_pending = true;
            route.snapshot = RouteSnapshot::now(monitor, id);
        }
    }

    /// Decides in which rows the figures of each route are. A route that no answer has confirmed
    /// has rows of its own if it stalls, or if a request of it is not polled: that deserves a name.
    pub(super) fn assign_rows(
        &mut self,
        monitor: &MonitorState,
        stalls: &OldestStalls,
        requests: &OldestRequests,
    ) {
        for (&id, route) in &mut self.routes {
            let has_stalled = !route.snapshot.stalls.is_empty();
            if has_stalled || stalls.by_route.contains_key(&id) || !requests.age(id).is_zero() {
                monitor.routes.add_row(id);
            }
            let row = monitor.routes.row(id);
            if let (true, Some(series), Some(name)) =
                (row != route.row, &mut route.series, monitor.routes.get(row))
            {
                series.rename(name);
                // The series begin at zero.
                route.is_pending = true;
            }
            route.row = row;
        }
    }

    /// Sets the gauges of the rows that have been used.
    pub(super) fn send_gauges(
        &mut self,
        flush: &Flush<'_>,
        gauges: &mut Gauges,
        monitor: &MonitorState,
        stalls: &OldestStalls,
        requests: &OldestRequests,
    ) {
        // Also those whose routes have moved to rows of their own.
        let mut rows: BTreeMap<_, _> =
            self.gauges.keys().map(|&row| (row, GaugeValues::default())).collect();
        for (id, route) in &self.routes {
            let oldest_stall_age = stalls.by_route.get(id).copied();
            if route.snapshot.is_used() || oldest_stall_age.is_some() {
                rows.entry(route.row).or_default().merge(&GaugeValues {
                    in_flight: route.snapshot.totals.in_flight(),
                    oldest_stall_age: oldest_stall_age.unwrap_or_default(),
                    oldest_request_age: requests.age(*id),
                });
            }
        }
        for (row, values) in rows {
            let Some(route) = monitor.routes.get(row) else { continue };
            let is_task = monitor.routes.is_task(row);
            let of_row = self.gauges.entry(row).or_insert_with(|| RouteGauges::new(route, is_task));
            of_row.send(flush, gauges, &values);
        }
    }

    /// Hands over the counters and histograms of the routes that have been used.
    pub(super) fn send(&mut self, flush: &Flush<'_>, monitor: &MonitorState) {
        let mut pending = 0;
        for route in self.routes.values_mut().filter(|route| route.is_pending) {
            if let (true, None, Some(name)) =
                (route.snapshot.is_used(), &route.series, monitor.routes.get(route.row))
            {
                route.series = Some(RouteSeries::new(name));
            }
            pending += route.pending();
        }
        let quota = self.budget.quota(self.created_at.elapsed(), pending);
        for route in self.routes.values_mut() {
            if let (true, Some(series)) = (route.is_pending || flush.is_full, &mut route.series) {
                series.send(flush, quota, &route.snapshot);
                route.is_pending = route.pending() > 0;
            }
        }
    }
}

// === impl ExportedRoute ===

impl ExportedRoute {
    fn new(row: RouteId) -> Self {
        let snapshot = RouteSnapshot::default();
        let delays = RouteDelays::default();
        Self { snapshot, changes: 0, reported: 0, delays, is_pending: false, row, series: None }
    }

    /// Returns how many samples were not handed over yet.
    fn pending(&self) -> u64 {
        self.series.as_ref().map_or(0, |series| series.pending(&self.snapshot))
    }
}

/// Returns how many polls of each route the reporter has accounted for.
fn reported_polls(monitor: &MonitorState) -> HashMap<RouteId, u64> {
    let history = monitor.history.lock();
    let stalls = history
        .stalls
        .iter()
        .flat_map(|(&id, by_cause)| by_cause.values().map(move |stalls| (id, stalls.count())));
    let others = history.handed_off.iter().chain(&history.off_worker);
    let mut polls = HashMap::new();
    for (id, count) in stalls.chain(others.map(|(&id, &count)| (id, count))) {
        *polls.entry(id).or_default() += count;
    }
    polls
}
