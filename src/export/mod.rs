//! The only module, with `prometheus`, that uses `metrics`: hands over what the shards have counted
//! to the process-wide recorder.

mod busy_ratio;
mod delta;
mod descriptions;
mod export_loop;
mod flush;
mod gauges;
mod oldest_requests;
mod oldest_stalls;
mod route;
mod routes;
mod runtime;
mod sample_budget;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::Recorder;

#[cfg(feature = "prometheus")]
pub(crate) use self::descriptions::seconds_counters;
#[cfg(feature = "prometheus")]
pub(crate) use self::sample_budget::set_recorder_drains;

pub(crate) use self::export_loop::ExportLoop;

use self::flush::{Flush, FullFlushes};
use self::gauges::Gauges;
use self::oldest_requests::OldestRequests;
use self::oldest_stalls::OldestStalls;
use self::routes::RoutesExporter;
use self::runtime::{MonitorCounts, RuntimeSeries, RuntimeSnapshot};
use crate::state::MonitorState;
use crate::watchdog::{Lag, WatchdogStats};

/// Hands over the counters of one monitor.
#[derive(Debug)]
pub(crate) struct Exporter {
    lag: Arc<Lag>,
    stats: Arc<WatchdogStats>,
    runtime: RuntimeSeries,
    routes: RoutesExporter,
    oldest_requests: OldestRequests,
    gauges: Gauges,
    full_flushes: FullFlushes,
}

// === impl Exporter ===

impl Exporter {
    pub(crate) fn new(monitor: &MonitorState, lag: Arc<Lag>, stats: Arc<WatchdogStats>) -> Self {
        Self {
            lag,
            stats,
            runtime: RuntimeSeries::new(&monitor.runtime_name, &monitor.runtime.metrics()),
            routes: RoutesExporter::new(),
            oldest_requests: OldestRequests::default(),
            gauges: Gauges::new(),
            full_flushes: FullFlushes::default(),
        }
    }

    /// Hands over what has changed since the last flush, to the recorder that is installed now: once a
    /// second for all routes.
    pub(crate) fn flush(&mut self, monitor: &MonitorState) {
        metrics::with_recorder(|recorder| self.flush_to(recorder, monitor));
    }

    /// Hands over everything that has changed, however recent the last flush is.
    pub(crate) fn flush_all(&mut self, monitor: &MonitorState) {
        self.routes.read_all_next();
        self.flush(monitor);
    }

    /// Withdraws the gauges, which will not be updated any more.
    pub(crate) fn close(&mut self) {
        metrics::with_recorder(|recorder| self.gauges.withdraw(recorder));
    }

    /// Nothing shows a stall that has ended as one in progress, neither what is handed over nor a
    /// scrape in the middle: the counters are read before the gauges, and handed over after them.
    fn flush_to(&mut self, recorder: &dyn Recorder, monitor: &MonitorState) {
        let now = Instant::now();
        let is_full = self.full_flushes.take_due(recorder, now);
        let flush = Flush { recorder, clock: &monitor.clock, is_full };
        if is_full {
            descriptions::describe(recorder);
        }
        self.routes.read(monitor, now);
        let counts = self.counts(monitor);
        let stalls = OldestStalls::now(monitor);
        self.oldest_requests.update(monitor);
        let requests = &self.oldest_requests;
        self.routes.assign_rows(monitor, &stalls, requests);
        self.routes.send_gauges(&flush, &mut self.gauges, monitor, &stalls, requests);
        let snapshot = self.runtime_snapshot(monitor, counts, stalls.by_worker);
        self.runtime.send(&flush, &mut self.gauges, &snapshot);
        self.routes.send(&flush, monitor);
    }

    fn counts(&self, monitor: &MonitorState) -> MonitorCounts {
        let (suppressed, hook_panics) = {
            let history = monitor.history.lock();
            (history.suppressed, history.hook_panics)
        };
        MonitorCounts {
            rescues: monitor.queue.rescues(),
            suppressed,
            overflowed: monitor.routes.overflowed(),
            dropped: monitor.queue.dropped(),
            hook_panics,
            captures: monitor.capture_pool.counts(),
            scans: self.stats.scans(),
        }
    }

    fn runtime_snapshot(
        &self,
        monitor: &MonitorState,
        counts: MonitorCounts,
        stalled_workers: BTreeMap<usize, Duration>,
    ) -> RuntimeSnapshot {
        RuntimeSnapshot {
            metrics: monitor.runtime.metrics(),
            has_ended: monitor.runtime_ended.is_set(),
            lag: self.lag.snapshot(),
            stalled_workers,
            watchdog_late: self.stats.late(),
            counts,
        }
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64;

    use http::Method;
    use metrics::{Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, SharedString, Unit};

    use super::*;
    use crate::os::Clock;
    use crate::request::local_handle;
    use crate::routes::{MethodLabel, RouteId, Routes};
    use crate::shard::{HistogramSnapshot, Outcome};
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
        let flush_a_stall = |exporter: &mut Exporter| {
            {
                let mut history = monitor.history.lock();
                let by_cause = history.stalls.entry(Routes::UNATTRIBUTED).or_default();
                by_cause.entry(Cause::Cpu).or_default().add(&monitor.bounds, 100 * MILLI);
            }
            recorder.take();
            exporter.flush_to(&recorder, &monitor);
        };
        // Some series exist only after the first time.
        flush_a_stall(&mut exporter);
        exporter.full_flushes = FullFlushes::default();
        flush_a_stall(&mut exporter);
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

    /// Records the figures of counters and the values of gauges, by name and route.
    #[derive(Clone, Default)]
    struct Figures(Arc<Mutex<BTreeMap<(String, String), f64>>>);

    struct Figure(Figures, (String, String));

    impl Figures {
        fn new_handle(&self, key: &Key) -> Arc<Figure> {
            let route = key.labels().find(|label| label.key() == "route");
            let route = route.map(|label| label.value().to_owned()).unwrap_or_default();
            Arc::new(Figure(self.clone(), (key.name().to_owned(), route)))
        }

        /// Returns what was handed over of a metric, by route.
        fn of(&self, name: &str) -> Vec<(String, f64)> {
            let figures = self.0.lock().unwrap();
            let of_name = figures.iter().filter(|((other, _), _)| other == name);
            of_name.map(|((_, route), &value)| (route.clone(), value)).collect()
        }
    }

    impl metrics::CounterFn for Figure {
        fn increment(&self, by: u64) {
            *self.0.0.lock().unwrap().entry(self.1.clone()).or_default() += by as f64;
        }

        fn absolute(&self, _: u64) {}
    }

    impl GaugeFn for Figure {
        fn increment(&self, _: f64) {}

        fn decrement(&self, _: f64) {}

        fn set(&self, value: f64) {
            self.0.0.lock().unwrap().insert(self.1.clone(), value);
        }
    }

    impl Recorder for Figures {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.new_handle(key))
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.new_handle(key))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    /// Counts a request that has ended, and one in flight.
    fn count_requests(monitor: &Arc<MonitorState>, route: RouteId) {
        let local = local_handle(monitor);
        let counters = local.counters(route);
        counters.start_request();
        counters.end_request(&monitor.bounds, Outcome::Success, 1, 1);
        counters.start_request();
    }

    /// The monitors of a process share their gauges, so each test has a method of its own.
    fn exporter() -> (Arc<MonitorState>, Figures, Exporter) {
        let monitor = state(Clock::Manual(Arc::new(AtomicU64::new(1_000 * MILLI))));
        let exporter = Exporter::new(&monitor, Arc::default(), Arc::default());
        (monitor, Figures::default(), exporter)
    }

    fn figures<const N: usize>(figures: [(&str, f64); N]) -> Vec<(String, f64)> {
        figures.map(|(route, value)| (route.to_owned(), value)).into()
    }

    const REQUESTS: &str = "tower_stall_requests_total";
    const IN_FLIGHT: &str = "tower_stall_requests_in_flight";

    #[test]
    fn the_figures_of_a_route_are_in_its_own_rows_once_an_answer_has_confirmed_it() {
        let (monitor, recorder, mut exporter) = exporter();
        let put = MethodLabel::new(&Method::PUT);
        let route = monitor.routes.of_request(put, Some("/a")).id;
        count_requests(&monitor, route);
        count_requests(&monitor, monitor.routes.of_request(put, None).id);
        exporter.flush_to(&recorder, &monitor);
        assert_eq!(recorder.of(REQUESTS), figures([("unmatched", 2.0)]));
        assert_eq!(recorder.of(IN_FLIGHT), figures([("unmatched", 2.0)]));
        monitor.routes.confirm(put, "/a");
        count_requests(&monitor, route);
        exporter.routes.read_all_next();
        exporter.flush_to(&recorder, &monitor);
        assert_eq!(recorder.of(REQUESTS), figures([("/a", 1.0), ("unmatched", 2.0)]));
        assert_eq!(recorder.of(IN_FLIGHT), figures([("/a", 2.0), ("unmatched", 1.0)]));
    }

    #[test]
    fn a_route_that_stalls_before_its_first_answer_has_rows() {
        let (monitor, recorder, mut exporter) = exporter();
        let patch = MethodLabel::new(&Method::PATCH);
        let [fast, slow] =
            ["/fast", "/slow"].map(|name| monitor.routes.of_request(patch, Some(name)).id);
        count_requests(&monitor, fast);
        count_requests(&monitor, slow);
        let by_cause = HashMap::from([(Cause::Blocked, HistogramSnapshot::default())]);
        monitor.history.lock().stalls.insert(slow, by_cause);
        exporter.flush_to(&recorder, &monitor);
        assert_eq!(recorder.of(REQUESTS), figures([("/slow", 1.0), ("unmatched", 1.0)]));
    }

    #[test]
    fn what_has_not_changed_is_handed_over_in_full_flushes_only() {
        let (monitor, recorder, mut exporter) = exporter();
        let trace = MethodLabel::new(&Method::TRACE);
        let routes = ["/a", "/b"].map(|name| monitor.routes.id(trace, name));
        routes.iter().for_each(|&route| count_requests(&monitor, route));
        let handed_over = |exporter: &mut Exporter| {
            recorder.0.lock().unwrap().clear();
            exporter.routes.read_all_next();
            exporter.flush_to(&recorder, &monitor);
            (recorder.of(REQUESTS), recorder.of(IN_FLIGHT))
        };
        let both = |value| figures([("/a", value), ("/b", value)]);
        assert_eq!(handed_over(&mut exporter), (both(1.0), both(1.0)));
        assert_eq!(handed_over(&mut exporter), (vec![], vec![]));
        count_requests(&monitor, routes[1]);
        let changed = (figures([("/b", 1.0)]), figures([("/b", 2.0)]));
        assert_eq!(handed_over(&mut exporter), changed);
        exporter.full_flushes = FullFlushes::default();
        let in_flight = figures([("/a", 1.0), ("/b", 2.0)]);
        assert_eq!(handed_over(&mut exporter), (both(0.0), in_flight));
    }

    #[test]
    fn routes_are_handed_over_once_a_second_and_after_a_stall() {
        let (monitor, _, mut exporter) = exporter();
        let connect = MethodLabel::new(&Method::CONNECT);
        let [quiet, stalls] = ["/quiet", "/stalls"].map(|name| monitor.routes.id(connect, name));
        let start = Instant::now();
        exporter.routes.read(&monitor, start);
        let read_at = |exporter: &mut Exporter, millis| {
            exporter.routes.read(&monitor, start + Duration::from_millis(millis));
            [quiet, stalls].map(|id| exporter.routes.started(id))
        };
        [quiet, stalls].iter().for_each(|&route| count_requests(&monitor, route));
        assert_eq!(read_at(&mut exporter, 250), [0, 0]);
        {
            let mut history = monitor.history.lock();
            let by_cause = history.stalls.entry(stalls).or_default();
            by_cause.entry(Cause::Cpu).or_default().add(&monitor.bounds, 100 * MILLI);
        }
        assert_eq!(read_at(&mut exporter, 500), [0, 2]);
        assert_eq!(read_at(&mut exporter, 1_000), [2, 2]);
    }
}
