use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use http::Method;
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, SharedString, Unit,
};

use super::*;
use crate::os::Clock;
use crate::request::local_handle;
use crate::routes::{MethodLabel, RouteId, Routes};
use crate::shard::Outcome;
use crate::stall::Cause;
use crate::state::tests::state;

const MILLI: u64 = 1_000_000;

/// Records what is handed over, in order.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<Vec<Figure>>>);

#[derive(Clone, Debug)]
struct Figure {
    metric: String,
    /// Empty for the metrics of the runtime.
    route: String,
    /// What a counter was increased by, or a gauge was set to.
    value: f64,
}

/// A counter or a gauge.
struct Series(Recorded, Figure);

impl Recorded {
    fn series(&self, key: &Key) -> Series {
        let route = key.labels().find(|label| label.key() == "route");
        let route = route.map(|label| label.value().to_owned()).unwrap_or_default();
        Series(self.clone(), Figure { metric: key.name().to_owned(), route, value: 0.0 })
    }

    fn take(&self) -> Vec<Figure> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Series {
    fn push(&self, value: f64) {
        self.0.0.lock().unwrap().push(Figure { value, ..self.1.clone() });
    }
}

impl CounterFn for Series {
    fn increment(&self, by: u64) {
        self.push(by as f64);
    }

    fn absolute(&self, _: u64) {}
}

impl GaugeFn for Series {
    fn increment(&self, _: f64) {}

    fn decrement(&self, _: f64) {}

    fn set(&self, value: f64) {
        self.push(value);
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::new(self.series(key)))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::new(self.series(key)))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.series(key).push(0.0);
        Histogram::noop()
    }
}

/// Returns what was handed over of a metric, by route.
fn of(figures: &[Figure], metric: &str) -> BTreeMap<String, f64> {
    let of_metric = figures.iter().filter(|figure| figure.metric == metric);
    of_metric.map(|figure| (figure.route.clone(), figure.value)).collect()
}

fn by_route<const N: usize>(figures: [(&str, f64); N]) -> BTreeMap<String, f64> {
    figures.map(|(route, value)| (route.to_owned(), value)).into()
}

/// The monitors of a process share their gauges, so each test has a method of its own.
fn exporter() -> (Arc<MonitorState>, Recorded, Exporter) {
    let monitor = state(Clock::Manual(Arc::new(AtomicU64::new(1_000 * MILLI))));
    let exporter = Exporter::new(&monitor, Arc::default(), Arc::default());
    (monitor, Recorded::default(), exporter)
}

/// Counts a stall that has ended.
fn count_stall(monitor: &MonitorState, route: RouteId) {
    let mut history = monitor.history.lock();
    let by_cause = history.stalls.entry(route).or_default();
    by_cause.entry(Cause::Cpu).or_default().add(&monitor.bounds, 100 * MILLI);
}

/// Counts a request that has ended, and one in flight.
fn count_requests(monitor: &Arc<MonitorState>, route: RouteId) {
    let local = local_handle(monitor);
    let counters = local.counters(route);
    counters.start_request();
    counters.end_request(&monitor.bounds, Outcome::Success, 1, 1);
    counters.start_request();
}

/// A scrape between two of these does not count a stall that it shows as in progress.
#[test]
fn gauges_of_stalls_are_handed_over_before_their_counts() {
    let (monitor, recorder, mut exporter) = exporter();
    let flush_a_stall = |exporter: &mut Exporter| {
        count_stall(&monitor, Routes::UNATTRIBUTED);
        recorder.take();
        exporter.flush_to(&recorder, &monitor);
    };
    // Some series exist only after the first time.
    flush_a_stall(&mut exporter);
    exporter.full_flushes = FullFlushes::default();
    flush_a_stall(&mut exporter);
    let sequence = recorder.take();
    let first = |name| sequence.iter().position(|figure| figure.metric == name).unwrap();
    let counted = first("tower_stall_duration_seconds");
    for gauge in ["tower_stall_in_progress_seconds", "tower_stall_workers_stalled"] {
        assert!(first(gauge) < counted, "{gauge}: {sequence:?}");
    }
}

#[test]
fn a_gauge_of_a_stall_that_was_none_after_all_is_reset() {
    let (monitor, recorder, mut exporter) = exporter();
    let mut ages = |start, is_confirmed| {
        monitor.unattributed[0].begin(start);
        if is_confirmed {
            monitor.unattributed[0].confirm();
        }
        exporter.flush_to(&recorder, &monitor);
        let ages = of(&recorder.take(), "tower_stall_in_progress_seconds");
        ages.into_values().collect::<Vec<_>>()
    };
    assert!(ages(0, false).is_empty());
    assert!(ages(800 * MILLI, false).is_empty(), "it may be many short polls");
    assert_eq!(ages(900 * MILLI, true), [0.1]);
    assert_eq!(ages(0, false), [0.0]);
}

const REQUESTS: &str = "tower_stall_requests_total";
const IN_FLIGHT: &str = "tower_stall_requests_in_flight";

#[test]
fn the_figures_of_a_route_are_in_its_own_rows_once_an_answer_has_confirmed_it() {
    let (monitor, recorder, mut exporter) = exporter();
    let put = MethodLabel::new(&Method::PUT);
    let route = monitor.routes.of_request(put, Some("/a")).id;
    let mut handed_over = || {
        exporter.pace.reset();
        exporter.flush_to(&recorder, &monitor);
        let figures = recorder.take();
        [REQUESTS, IN_FLIGHT].map(|metric| of(&figures, metric))
    };
    count_requests(&monitor, route);
    let unmatched = by_route([("unmatched", 1.0)]);
    assert_eq!(handed_over(), [unmatched.clone(), unmatched]);
    monitor.routes.confirm(put, "/a");
    let moved = by_route([("/a", 1.0), ("unmatched", 0.0)]);
    assert_eq!(handed_over(), [by_route([("/a", 0.0)]), moved], "the series begins at zero");
    count_requests(&monitor, route);
    assert_eq!(handed_over(), [by_route([("/a", 1.0)]), by_route([("/a", 2.0)])]);
}

#[test]
fn the_routes_without_an_answer_share_their_row() {
    let (monitor, recorder, mut exporter) = exporter();
    let delete = MethodLabel::new(&Method::DELETE);
    for name in [None, Some("/a"), Some("/b")] {
        count_requests(&monitor, monitor.routes.of_request(delete, name).id);
    }
    exporter.flush_to(&recorder, &monitor);
    let figures = recorder.take();
    let requests = figures.iter().filter(|figure| figure.metric == REQUESTS);
    assert_eq!(requests.map(|figure| figure.value).collect::<Vec<_>>(), [1.0; 3]);
    assert_eq!(of(&figures, IN_FLIGHT), by_route([("unmatched", 3.0)]));
}

#[test]
fn a_route_that_stalls_before_its_first_answer_has_rows() {
    let (monitor, recorder, mut exporter) = exporter();
    let patch = MethodLabel::new(&Method::PATCH);
    let [fast, slow] =
        ["/fast", "/slow"].map(|name| monitor.routes.of_request(patch, Some(name)).id);
    count_requests(&monitor, fast);
    count_requests(&monitor, slow);
    count_stall(&monitor, slow);
    exporter.flush_to(&recorder, &monitor);
    let requests = by_route([("/slow", 1.0), ("unmatched", 1.0)]);
    assert_eq!(of(&recorder.take(), REQUESTS), requests);
}

#[test]
fn what_has_not_changed_is_handed_over_in_full_flushes_only() {
    let (monitor, recorder, mut exporter) = exporter();
    let trace = MethodLabel::new(&Method::TRACE);
    let routes = ["/a", "/b"].map(|name| monitor.routes.id(trace, name));
    routes.iter().for_each(|&route| count_requests(&monitor, route));
    let handed_over = |exporter: &mut Exporter| {
        exporter.pace.reset();
        exporter.flush_to(&recorder, &monitor);
        let figures = recorder.take();
        [REQUESTS, IN_FLIGHT].map(|metric| of(&figures, metric))
    };
    let both = |value| by_route([("/a", value), ("/b", value)]);
    assert_eq!(handed_over(&mut exporter), [both(1.0), both(1.0)]);
    assert_eq!(handed_over(&mut exporter), [by_route([]), by_route([])]);
    count_requests(&monitor, routes[1]);
    let changed = [by_route([("/b", 1.0)]), by_route([("/b", 2.0)])];
    assert_eq!(handed_over(&mut exporter), changed);
    exporter.full_flushes = FullFlushes::default();
    let in_flight = by_route([("/a", 1.0), ("/b", 2.0)]);
    assert_eq!(handed_over(&mut exporter), [both(0.0), in_flight]);
}

#[test]
fn a_route_that_stalls_is_read_before_the_others() {
    let (monitor, _, mut exporter) = exporter();
    let connect = MethodLabel::new(&Method::CONNECT);
    let [quiet, stalls] = ["/quiet", "/stalls"].map(|name| monitor.routes.id(connect, name));
    exporter.routes.read(&monitor, true);
    let mut started = |is_of_all| {
        exporter.routes.read(&monitor, is_of_all);
        [quiet, stalls].map(|id| exporter.routes.started(id))
    };
    [quiet, stalls].iter().for_each(|&route| count_requests(&monitor, route));
    assert_eq!(started(false), [0, 0]);
    count_stall(&monitor, stalls);
    assert_eq!(started(false), [0, 2]);
    assert_eq!(started(true), [2, 2]);
}
