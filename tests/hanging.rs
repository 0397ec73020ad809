//! Tests that what users plug in (a subscriber, a hook, a recorder) may hang without stopping
//! anything else. The recorder is process-wide, so each has its own process.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(all(feature = "axum", feature = "prometheus"))]

mod support;

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::runtime::{Builder, Handle, Runtime};
use tower_stall::prometheus::serve;
use tower_stall::{Stall, StallMonitor};
use tracing::{Event, Id, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use self::support::{
    Scrape, builder_for, child_command, ended, eventually, http_get, in_own_process, in_progress,
    is_child, monitor_for, runtime, stats,
};

const WORKER: &str = "test-worker";

/// Where a thread hangs until the test ends that, or drops it.
#[derive(Clone, Default)]
struct Gate(Arc<(AtomicBool, Mutex<Option<mpsc::Receiver<()>>>)>);

impl Gate {
    /// Returns a gate, and what opens it when it is dropped.
    fn closed() -> (Self, mpsc::Sender<()>) {
        let (open, opened) = mpsc::channel();
        let gate = Self::default();
        *gate.0.1.lock().unwrap() = Some(opened);
        (gate, open)
    }

    fn pass(&self) {
        let opened = self.0.1.lock().unwrap().take();
        if let Some(opened) = opened {
            self.0.0.store(true, Ordering::Release);
            let _ = opened.recv();
        }
    }

    /// Returns whether a thread is, or was, held up.
    fn is_entered(&self) -> bool {
        self.0.0.load(Ordering::Acquire)
    }
}

/// Sees events and the ends of spans, and calls functions at them.
#[derive(Clone, Default)]
struct Probe {
    at_event: Gate,
    at_close: Option<Arc<dyn Fn() + Send + Sync>>,
    /// The names of the spans that reports were written in.
    events: Arc<Mutex<Vec<Option<&'static str>>>>,
    /// The names of the threads that spans named `request` were closed on.
    closed_on: Arc<Mutex<Vec<String>>>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Probe {
    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        if event.metadata().target() == "tower_stall" {
            let span = cx.event_span(event).map(|span| span.name());
            self.at_event.pass();
            self.events.lock().unwrap().push(span);
        }
    }

    fn on_close(&self, id: Id, cx: Context<'_, S>) {
        if cx.span(&id).is_some_and(|span| span.name() == "request") {
            let thread = thread::current().name().unwrap_or_default().to_owned();
            self.closed_on.lock().unwrap().push(thread);
            if let Some(at_close) = &self.at_close {
                at_close();
            }
        }
    }
}

impl Probe {
    /// Makes it the subscriber of the process.
    fn install(&self) {
        tracing::subscriber::set_global_default(Registry::default().with(self.clone())).unwrap();
    }

    fn events(&self) -> usize {
        self.events.lock().unwrap().len()
    }

    fn closed_on(&self) -> Vec<String> {
        self.closed_on.lock().unwrap().clone()
    }
}

fn named_runtime(workers: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(workers).thread_name(WORKER).enable_all().build().unwrap()
}

/// Stalls a worker for a while, in a task, inside a span, and waits for its end.
fn nap(runtime: &Runtime, monitor: &StallMonitor, name: &str) {
    let nap = async { thread::sleep(Duration::from_millis(60)) };
    let task = monitor.instrument(name, nap);
    let task = tracing::Instrument::instrument(task, tracing::info_span!("request"));
    runtime.block_on(runtime.spawn(task)).unwrap();
}

/// Stalls a worker until the returned sender is dropped.
fn block(runtime: &Runtime, monitor: &StallMonitor) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    runtime.spawn(monitor.instrument("block", async move { released.recv() }));
    eventually("the stall is in progress", || !in_progress(monitor).is_empty());
    release
}

fn stalls(monitor: &StallMonitor, name: &str) -> u64 {
    stats(monitor, "TASK", name).map_or(0, |stats| stats.stalls())
}

/// Checks that metrics, gauges, `/stalls` and `recent_stalls` follow what happens.
fn assert_that_the_rest_goes_on(
    runtime: &Runtime,
    monitor: &StallMonitor,
    server: &tower_stall::prometheus::Server,
) {
    server.show(monitor);
    let get = |path| http_get(server.local_addr(), path).body;
    let sum = |name, labels: &[(&str, &str)]| Scrape(get("/metrics")).sum(name, labels);
    let task = [("method", "TASK"), ("route", "nap")];
    let before = sum("tower_stall_duration_seconds_count", &task);
    (0..3).for_each(|_| nap(runtime, monitor, "nap"));
    eventually("the stalls are counted", || {
        sum("tower_stall_duration_seconds_count", &task) == before + 3.0
    });
    eventually("they are shown", || get("/stalls").matches("TASK nap stalled").count() >= 3);
    let release = block(runtime, monitor);
    let age = || sum("tower_stall_in_progress_seconds", &[("route", "block")]);
    eventually("the gauge shows the stall", || age() > 0.0);
    let first = age();
    eventually("the gauge follows it", || age() > first);
    eventually("it is shown", || get("/stalls").contains("TASK block has been stalling"));
    drop(release);
    eventually("the gauge shows its end", || age() == 0.0);
    let workers = [("runtime", "main")];
    eventually("no worker is stalled", || sum("tower_stall_workers_stalled", &workers) == 0.0);
}

#[test]
fn a_subscriber_that_hangs_stops_only_the_log() {
    in_own_process(|| {
        let server = serve(([127, 0, 0, 1], 0)).unwrap();
        let (gate, open) = Gate::closed();
        let probe = Probe { at_event: gate, ..Probe::default() };
        probe.install();
        let runtime = runtime(2);
        let hooked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&hooked);
        let monitor = builder_for(&runtime)
            .on_stall(move |stall| {
                count.fetch_add(usize::from(stall.route() == "nap"), Ordering::Relaxed);
            })
            .spawn()
            .unwrap();
        nap(&runtime, &monitor, "nap");
        eventually("the log hangs", || probe.at_event.is_entered());
        assert_that_the_rest_goes_on(&runtime, &monitor, &server);
        eventually("the hook goes on", || hooked.load(Ordering::Relaxed) == 4);
        assert_eq!(probe.events(), 0);
        drop(open);
        eventually("what was queued is written", || probe.events() >= 5);
    });
}

#[test]
fn a_hook_that_hangs_stops_only_the_hook_and_what_it_misses_is_counted() {
    in_own_process(|| {
        let server = serve(([127, 0, 0, 1], 0)).unwrap();
        let probe = Probe::default();
        probe.install();
        let (gate, open) = Gate::closed();
        let hooked = Arc::new(AtomicUsize::new(0));
        let (hook_gate, count) = (gate.clone(), Arc::clone(&hooked));
        let runtime = runtime(2);
        let hook = move |_: &Stall| {
            hook_gate.pass();
            count.fetch_add(1, Ordering::Relaxed);
        };
        let monitor = builder_for(&runtime).on_stall(hook).spawn().unwrap();
        nap(&runtime, &monitor, "nap");
        eventually("the hook hangs", || gate.is_entered());
        assert_that_the_rest_goes_on(&runtime, &monitor, &server);
        eventually("the log goes on", || probe.events() >= 5);

        // More than the hook's queue holds, in steps that the reporter can follow.
        monitor.set_stall_threshold(Duration::from_nanos(1)).unwrap();
        for step in 1..=22 {
            for _ in 0..50 {
                runtime.block_on(runtime.spawn(monitor.instrument("short", async {}))).unwrap();
            }
            eventually("they are counted", || stalls(&monitor, "short") == 50 * step);
        }
        monitor.set_stall_threshold(Duration::from_secs(60)).unwrap();
        let dropped = || {
            let scrape = Scrape(http_get(server.local_addr(), "/metrics").body);
            scrape.sum("tower_stall_events_dropped_total", &[]) as usize
        };
        eventually("what was dropped is counted", || dropped() >= 1_100 - 1_024);
        drop(open);
        eventually("the hook gets the others", || hooked.load(Ordering::Relaxed) >= 1_024);
    });
}

/// A recorder that hangs as soon as a gauge is set.
struct HangingRecorder(Gate);

impl Recorder for HangingRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        self.0.pass();
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn a_recorder_that_hangs_stops_neither_reports_nor_the_hook() {
    in_own_process(|| {
        let (gate, open) = Gate::closed();
        metrics::set_global_recorder(HangingRecorder(gate.clone())).unwrap();
        let probe = Probe::default();
        probe.install();
        let (report, reports) = mpsc::channel();
        let runtime = runtime(1);
        let monitor = builder_for(&runtime)
            .on_stall(move |stall| report.send(stall.route().to_owned()).unwrap_or_default())
            .spawn()
            .unwrap();
        eventually("the recorder hangs", || gate.is_entered());
        for _ in 0..3 {
            nap(&runtime, &monitor, "nap");
        }
        let hooked: BTreeSet<_> = reports.iter().take(3).collect();
        assert_eq!(hooked, ["nap".to_owned()].into());
        eventually("they are logged", || probe.events() == 3);
        eventually("they are shown", || ended(&monitor).len() == 3);
        monitor.shutdown();
        drop(open);
    });
}

#[test]
fn a_subscriber_that_hangs_does_not_hang_a_shutdown() {
    in_own_process(|| {
        let (gate, open) = Gate::closed();
        let probe = Probe { at_event: gate, ..Probe::default() };
        probe.install();
        let runtime = runtime(1);
        let monitor = monitor_for(&runtime);
        nap(&runtime, &monitor, "nap");
        eventually("the log hangs", || probe.at_event.is_entered());
        monitor.shutdown();
        drop(open);
        eventually("the report is written", || probe.events() == 1);
    });
}

#[test]
fn a_span_is_closed_on_its_runtime_after_the_report_in_it() {
    in_own_process(|| {
        let runtime = named_runtime(2);
        let probe = Probe {
            // Panics outside a runtime.
            at_close: Some(Arc::new(|| assert!(Handle::current().metrics().num_workers() == 2))),
            ..Probe::default()
        };
        probe.install();
        let monitor = monitor_for(&runtime);
        (0..3).for_each(|_| nap(&runtime, &monitor, "nap"));
        eventually("they are reported", || probe.events() == 3);
        eventually("the spans are closed", || probe.closed_on().len() == 3);
        assert_eq!(*probe.events.lock().unwrap(), [Some("request"); 3]);
        assert_eq!(probe.closed_on(), [WORKER; 3]);
    });
}

#[test]
fn a_span_exporter_that_hangs_stops_no_report() {
    in_own_process(|| {
        let server = serve(([127, 0, 0, 1], 0)).unwrap();
        let (gate, open) = Gate::closed();
        let at_close = gate.clone();
        let probe = Probe { at_close: Some(Arc::new(move || at_close.pass())), ..Probe::default() };
        probe.install();
        let runtime = named_runtime(3);
        let monitor = monitor_for(&runtime);
        nap(&runtime, &monitor, "nap");
        eventually("the exporter hangs", || gate.is_entered());
        (0..3).for_each(|_| nap(&runtime, &monitor, "other"));
        eventually("reports go on", || probe.events() >= 4);
        let counted = || {
            let scrape = Scrape(http_get(server.local_addr(), "/metrics").body);
            scrape.sum("tower_stall_duration_seconds_count", &[("route", "other")])
        };
        eventually("metrics go on", || counted() == 3.0);
        drop(open);
        eventually("all spans are closed", || probe.closed_on().len() == 4);
        assert_eq!(probe.closed_on(), [WORKER; 4]);
    });
}

#[test]
fn a_log_that_hangs_does_not_keep_spans_open() {
    in_own_process(|| {
        let (gate, open) = Gate::closed();
        let probe = Probe { at_event: gate, ..Probe::default() };
        probe.install();
        let runtime = named_runtime(1);
        let monitor = monitor_for(&runtime);
        (0..4).for_each(|_| nap(&runtime, &monitor, "nap"));
        eventually("the log hangs", || probe.at_event.is_entered());
        eventually("the other spans are closed", || probe.closed_on().len() == 3);
        assert_eq!(probe.closed_on(), [WORKER; 3]);
        assert_eq!(probe.events(), 0);
        drop(open);
        eventually("their reports are written", || probe.events() == 4);
        let events = probe.events.lock().unwrap().clone();
        assert_eq!(events, [Some("request"), None, None, None]);
        eventually("the last span is closed", || probe.closed_on().len() == 4);
    });
}

#[test]
fn a_span_that_panics_where_its_runtime_has_shut_down_is_contained() {
    in_own_process(|| {
        let (gone, other) = (named_runtime(1), runtime(1));
        let probe = Probe {
            at_close: Some(Arc::new(|| std::panic::resume_unwind(Box::new("a panic")))),
            ..Probe::default()
        };
        probe.install();
        let monitor = monitor_for(&gone);
        gone.shutdown_background();
        (0..3).for_each(|_| nap(&other, &monitor, "nap"));
        eventually("all are reported", || probe.events() == 3);
        eventually("the spans are closed", || probe.closed_on().len() == 3);
        assert_eq!(probe.closed_on(), ["tower-stall-log"; 3]);
        assert_eq!(stalls(&monitor, "nap"), 3);
    });
}

/// The exit code of the child process if all goes well. It cannot say so: its stdout is stuck.
const FINE: i32 = 77;

#[test]
fn a_full_stdout_pipe_stops_only_the_log() {
    if !is_child() {
        let mut command = child_command("a_full_stdout_pipe_stops_only_the_log");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        // Not drained while the child runs.
        assert_eq!(child.wait().unwrap().code(), Some(FINE));
        return;
    }
    let result = thread::spawn(|| {
        let server = serve(([127, 0, 0, 1], 0)).unwrap();
        tracing_subscriber::fmt().with_writer(std::io::stdout).init();
        let runtime = runtime(2);
        let monitor = monitor_for(&runtime);
        let is_writing = Arc::new(AtomicUsize::new(0));
        let lines = Arc::clone(&is_writing);
        thread::spawn(move || {
            loop {
                lines.fetch_add(1, Ordering::Relaxed);
                tracing::info!("{}", "x".repeat(1_000));
            }
        });
        let mut before = usize::MAX;
        // A pipe holds 4 or 64 KiB.
        eventually("stdout is full", || {
            thread::sleep(Duration::from_millis(100));
            let now = is_writing.load(Ordering::Relaxed);
            now > 1 && std::mem::replace(&mut before, now) == now
        });
        assert_that_the_rest_goes_on(&runtime, &monitor, &server);
        monitor.shutdown();
    });
    std::process::exit(if result.join().is_ok() { FINE } else { 1 });
}
