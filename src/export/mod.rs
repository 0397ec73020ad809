//! The only module, with `prometheus`, that uses `metrics`: hands over what the shards have counted
//! to the process-wide recorder.

mod busy_ratio;
mod delta;
mod descriptions;
mod export_loop;
mod gauges;
mod oldest_requests;
mod oldest_stalls;
mod route;
mod runtime;
mod sample_budget;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::Recorder;

#[cfg(feature = "prometheus")]
pub(crate) use self::descriptions::seconds_counters;
#[cfg(feature = "prometheus")]
pub(crate) use self::sample_budget::set_recorder_drains;

pub(crate) use self::export_loop::ExportLoop;

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

    /// Nothing shows a stall that has ended as one in progress, neither what is handed over nor a
    /// scrape in the middle: the counters are read before the gauges, and handed over after them.
    fn flush_to(&mut self, recorder: &dyn Recorder, monitor: &MonitorState) {
        descriptions::describe(recorder);
        let counted = self.counted_routes(monitor);
        let stalls = OldestStalls::now(monitor);
        self.oldest_requests.update(monitor);
        for (id, snapshot) in &counted {
            let age = stalls.by_route.get(id).copied();
            self.send_route_gauges(recorder, monitor, *id, snapshot, age);
        }
        let snapshot = self.runtime_snapshot(monitor, stalls.by_worker);
        self.runtime.send(recorder, &monitor.clock, &mut self.gauges, &snapshot);
        self.send_routes(recorder, monitor, &counted);
    }

    fn counted_routes(&self, monitor: &MonitorState) -> Vec<(RouteId, RouteSnapshot)> {
        let routes = monitor.routes.iter();
        routes.map(|(id, _)| (id, RouteSnapshot::now(monitor, id))).collect()
    }

    /// Sets the gauges of a route that has been used. Its series exist from then on.
    fn send_route_gauges(
        &mut self,
        recorder: &dyn Recorder,
        monitor: &MonitorState,
        id: RouteId,
        snapshot: &RouteSnapshot,
        oldest_stall_age: Option<Duration>,
    ) {
        if snapshot.is_used() || oldest_stall_age.is_some() {
            if let (Entry::Vacant(entry), Some(route)) =
                (self.routes.entry(id), monitor.routes.get(id))
            {
                entry.insert(RouteSeries::new(route));
            }
        }
        if let Some(series) = self.routes.get(&id) {
            let age = oldest_stall_age.unwrap_or_default();
            series.send_gauges(recorder, &mut self.gauges, snapshot, age);
            if !monitor.routes.is_task(id) {
                let age = self.oldest_requests.age(id);
                series.send_oldest_request(recorder, &mut self.gauges, age);
            }
        }
    }

    fn send_routes(
        &mut self,
        recorder: &dyn Recorder,
        monitor: &MonitorState,
        counted: &[(RouteId, RouteSnapshot)],
    ) {
        let pending = counted
            .iter()
            .filter_map(|(id, snapshot)| Some(self.routes.get(id)?.pending(snapshot)))
            .sum();
        let quota = self.budget.quota(self.created_at.elapsed(), pending);
        for (id, snapshot) in counted {
            if let Some(series) = self.routes.get_mut(id) {
                series.send(recorder, &monitor.clock, quota, snapshot);
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
            has_ended: monitor.runtime_ended.is_set(),
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

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use metrics::{Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, SharedString, Unit};

    use super::*;
    use crate::os::Clock;
    use crate::routes::Routes;
    use crate::stall::Cause;
    use crate::state::tests::state;

    const MILLI: u64 = 1_000_000;

    /// Records what is handed over, in order: names, and the values of gauges.
    #[derive(Clone, Default)]
    struct Sequence(Arc<Mutex<Vec<(String, f64)>>>);

    struct RecordedGauge(Sequence, String);

    impl Sequence {
        fn push(&self, name: &str, value: f64) {
            self.0.lock().unwrap().push((name.to_owned(), value));
        }

        fn take(&self) -> Vec<(String, f64)> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    impl GaugeFn for RecordedGauge {
        fn increment(&self, _: f64) {}

        fn decrement(&self, _: f64) {}

        fn set(&self, value: f64) {
            self.0.push(&self.1, value);
        }
    }

    impl Recorder for Sequence {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(Arc::new(RecordedGauge(self.clone(), key.name().to_owned())))
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            self.push(key.name(), 0.0);
            Histogram::noop()
        }
    }

    /// A scrape between two of these does not count a stall that it shows as in progress.
    #[test]
    fn gauges_of_stalls_are_handed_over_before_their_counts() {
        let monitor = state(Clock::Manual(Arc::new(std::sync::atomic::AtomicU64::new(MILLI))));
        let (recorder, mut exporter) =
            (Sequence::default(), Exporter::new(&monitor, Arc::default(), Arc::default()));
        let mut flush_a_stall = || {
            {
                let mut history = monitor.history.lock();
                let by_cause = history.stalls.entry(Routes::UNATTRIBUTED).or_default();
                by_cause.entry(Cause::Cpu).or_default().add(&monitor.bounds, 100 * MILLI);
            }
            recorder.take();
            exporter.flush_to(&recorder, &monitor);
        };
        // Some series exist only after the first time.
        flush_a_stall();
        flush_a_stall();
        let sequence = recorder.take();
        let first = |name| sequence.iter().position(|(other, _)| other == name).unwrap();
        let counted = first("tower_stall_duration_seconds");
        for gauge in ["tower_stall_in_progress_seconds", "tower_stall_workers_stalled"] {
            assert!(first(gauge) < counted, "{gauge}: {sequence:?}");
        }
    }

    #[test]
    fn a_gauge_of_a_stall_that_was_none_after_all_is_reset() {
        let time = Arc::new(std::sync::atomic::AtomicU64::new(1_000 * MILLI));
        let monitor = state(Clock::Manual(time));
        let (recorder, mut exporter) =
            (Sequence::default(), Exporter::new(&monitor, Arc::default(), Arc::default()));
        let mut ages = |start, is_confirmed| {
            monitor.unattributed[0].begin(start);
            if is_confirmed {
                monitor.unattributed[0].confirm();
            }
            exporter.flush_to(&recorder, &monitor);
            let is_age = |(name, _): &(String, f64)| name == "tower_stall_in_progress_seconds";
            let ages = recorder.take().into_iter().filter(is_age);
            ages.map(|(_, age)| age).collect::<Vec<_>>()
        };
        assert!(ages(0, false).is_empty());
        assert!(ages(800 * MILLI, false).is_empty(), "it may be many short polls");
        assert_eq!(ages(900 * MILLI, true), [0.1]);
        assert_eq!(ages(0, false), [0.0]);
    }
}
