//! The only module, with `prometheus`, that uses `metrics`: hands over what the shards have counted
//! to the process-wide recorder.

mod busy_ratio;
mod delta;
mod descriptions;
mod gauges;
mod oldest_requests;
mod oldest_stalls;
mod route;
mod runtime;
mod sample_budget;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::Recorder;

#[cfg(feature = "prometheus")]
pub(crate) use self::descriptions::seconds_counters;
#[cfg(feature = "prometheus")]
pub(crate) use self::sample_budget::set_recorder_drains;

use self::gauges::Gauges;
use self::oldest_requests::OldestRequests;
use self::oldest_stalls::OldestStalls;
use self::route::{RouteSeries, RouteSnapshot};
use self::runtime::{MonitorCounts, RuntimeSeries, RuntimeSnapshot};
use self::sample_budget::SampleBudget;
use crate::routes::RouteId;
use crate::state::MonitorState;
use crate::watchdog::{Lag, WatchdogStats};

/// Hands over the counters of one monitor.
#[derive(Debug)]
pub(crate) struct Exporter {
    lag: Arc<Lag>,
    stats: Arc<WatchdogStats>,
    runtime: RuntimeSeries,
    routes: HashMap<RouteId, RouteSeries>,
    oldest_requests: OldestRequests,
    gauges: Gauges,
    budget: SampleBudget,
    created_at: Instant,
}

// === impl Exporter ===

impl Exporter {
    pub(crate) fn new(monitor: &MonitorState, lag: Arc<Lag>, stats: Arc<WatchdogStats>) -> Self {
        Self {
            lag,
            stats,
            runtime: RuntimeSeries::new(&monitor.runtime_name, &monitor.runtime.metrics()),
            routes: HashMap::new(),
            oldest_requests: OldestRequests::default(),
            gauges: Gauges::new(),
            budget: SampleBudget::new(Duration::ZERO),
            created_at: Instant::now(),
        }
    }

    /// Hands over what has changed since the last flush, to the recorder that is installed now.
    pub(crate) fn flush(&mut self, monitor: &MonitorState) {
        metrics::with_recorder(|recorder| self.flush_to(recorder, monitor));
    }

    /// Withdraws the gauges, which will not be updated any more.
    pub(crate) fn close(&mut self) {
        metrics::with_recorder(|recorder| self.gauges.withdraw(recorder));
    }

    fn flush_to(&mut self, recorder: &dyn Recorder, monitor: &MonitorState) {
        descriptions::describe(recorder);
        let stalls = OldestStalls::now(monitor);
        self.flush_routes(recorder, monitor, &stalls);
        let snapshot = self.runtime_snapshot(monitor, stalls.by_worker);
        self.runtime.send(recorder, &monitor.clock, &mut self.gauges, &snapshot);
    }

    fn flush_routes(
        &mut self,
        recorder: &dyn Recorder,
        monitor: &MonitorState,
        stalls: &OldestStalls,
    ) {
        self.oldest_requests.update(monitor);
        let mut snapshots = Vec::new();
        for (id, route) in monitor.routes.iter() {
            if let Some(snapshot) = RouteSnapshot::now(monitor, id, stalls) {
                let series = self.routes.entry(id).or_insert_with(|| RouteSeries::new(route));
                snapshots.push((id, series.pending(&snapshot), snapshot));
            }
        }
        let pending = snapshots.iter().map(|(_, pending, _)| pending).sum();
        let quota = self.budget.quota(self.created_at.elapsed(), pending);
        for (id, _, snapshot) in &snapshots {
            if let Some(series) = self.routes.get_mut(id) {
                series.send(recorder, &monitor.clock, quota, &mut self.gauges, snapshot);
                if !monitor.routes.is_task(*id) {
                    let age = self.oldest_requests.age(*id);
                    series.send_oldest_request(recorder, &mut self.gauges, age);
                }
            }
        }
    }

    fn runtime_snapshot(
        &self,
        monitor: &MonitorState,
        stalled_workers: BTreeMap<usize, Duration>,
    ) -> RuntimeSnapshot {
        let (suppressed, hook_panics) = {
            let history = monitor.history.lock();
            (history.suppressed, history.hook_panics)
        };
        RuntimeSnapshot {
            metrics: monitor.runtime.metrics(),
            lag: self.lag.snapshot(),
            stalled_workers,
            watchdog_late: self.stats.late(),
            counts: MonitorCounts {
                rescues: monitor.queue.rescues(),
                suppressed,
                overflowed: monitor.routes.overflowed(),
                dropped: monitor.queue.dropped(),
                hook_panics,
                captures: monitor.capture_pool.counts(),
                scans: self.stats.scans(),
            },
        }
    }
}
