//! Tests of the reports: `tracing` events in the span of the request, limited per route, and never
//! written by a worker thread.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(feature = "axum")]

mod support;

use std::io;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use serde_json::Value;
use tower::ServiceExt;
use tower_http::trace::{DefaultMakeSpan, TraceLayer};
use tower_stall::{Cause, Stall, StallMonitor, StallMonitorBuilder};
use tracing::Level;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};

use self::support::{DEADLINE, PanickingSubscriber, ended, eventually, eventually_async};

/// What a subscriber has written, and the names of the threads that wrote.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<(Vec<u8>, Vec<String>)>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().unwrap();
        log.0.extend_from_slice(bytes);
        log.1.push(thread::current().name().unwrap_or_default().to_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    fn events(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn wait_for(&self, count: usize) -> Vec<Value> {
        let condition = format!("{count} events");
        eventually_async(&condition, || self.events().len() >= count).await;
        self.events()
    }
}

const HAS_STACKS: bool = cfg!(stacks_supported);
/// Whether the system call is known that a thread is blocked in.
const HAS_SYSCALLS: bool = cfg!(target_os = "linux");

/// Held by a test while its subscriber is installed. If another subscriber is installed or dropped
/// while a call site is registered, tracing may not ask ours about it, and the request has no span.
static SUBSCRIBER: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Captures events of `level` and above until the guards are dropped.
async fn log(level: Level) -> (Log, LogGuard) {
    log_if(move |metadata| *metadata.level() <= level || metadata.name() == "request").await
}

type LogGuard = (tracing::subscriber::DefaultGuard, tokio::sync::MutexGuard<'static, ()>);

async fn log_if(
    is_enabled: impl Fn(&tracing::Metadata<'_>) -> bool + Send + Sync + 'static,
) -> (Log, LogGuard) {
    let lock = SUBSCRIBER.lock().await;
    let log = Log::default();
    let filter = filter_fn(is_enabled);
    let layer =
        tracing_subscriber::fmt::layer().json().with_writer(log.clone()).with_filter(filter);
    let subscriber = tracing_subscriber::registry().with(layer);
    (log, (tracing::subscriber::set_default(subscriber), lock))
}

fn app(builder: StallMonitorBuilder) -> (Router, StallMonitor) {
    let monitor = builder.spawn().unwrap();
    // Several times the threshold, so that a machine under load does not change the cause.
    let block = |millis| move || async move { thread::sleep(Duration::from_millis(millis)) };
    let app = Router::new()
        .route("/report/{id}", get(block(150)))
        .route("/other", get(block(150)))
        .layer(monitor.layer());
    (traced(app), monitor)
}

/// Gives each request a span.
fn traced(app: Router) -> Router {
    app.layer(tower_http::trace::TraceLayer::new_for_http().make_span_with(
        |request: &Request<Body>| tracing::info_span!("request", path = request.uri().path()),
    ))
}

async fn send(app: &Router, path: &str) {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    drop(app.clone().oneshot(request).await.unwrap());
}

/// Sends requests, at most 8, until the cause of a report is not a delay by the host; then it must
/// be `blocked`. A handler that sleeps for 150 ms is only host-delayed if it then waits for a core
/// for longer: if that happened to every third one, 1 run in 6,500 would fail.
async fn blocked_report(app: &Router, log: &Log) -> Value {
    for sent in 0..8 {
        send(app, "/report/7").await;
        let event = log.wait_for(sent + 1).await.remove(sent);
        let cause = event["fields"]["cause"].as_str().unwrap();
        if !["preempted", "paused"].contains(&cause) {
            assert_eq!(cause, "blocked", "{event:#?}");
            return event;
        }
    }
    panic!("{:#?}", log.events());
}

#[tokio::test]
async fn a_report_has_all_fields_and_the_span_of_the_request() {
    let (log, _guard) = log(Level::WARN).await;
    let (app, monitor) = app(StallMonitor::builder());
    let event = blocked_report(&app, &log).await;
    assert_eq!((&event["level"], &event["target"]), (&"WARN".into(), &"tower_stall".into()));
    assert_eq!(event["span"]["path"], "/report/7", "{event:#?}");
    let fields = &event["fields"];
    assert_eq!(fields["method"], "GET");
    assert_eq!(fields["route"], "/report/{id}");
    assert_eq!(fields["phase"], "handler");
    assert_eq!(fields["threshold_ms"].as_f64().unwrap().round(), 25.0);
    assert!(fields["duration_ms"].as_f64().unwrap() >= 150.0);
    assert_eq!(fields["worker"], 0);
    assert_eq!(fields["in_flight"], 0);
    let message = fields["message"].as_str().unwrap();
    assert_eq!(Some(message), ended_requests(&monitor).last().map(ToString::to_string).as_deref());
    let cause = if HAS_SYSCALLS { "blocked in `" } else { "blocked" };
    for part in ["GET /report/{id} stalled worker 0 for ", &format!("(threshold 25 ms): {cause}")] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(fields["in_progress"], false);
    assert_eq!(fields["suppressed"], 0);
    for field in ["io_starved", "rescued"] {
        assert!(fields[field].is_boolean(), "{field}");
    }
    if HAS_STACKS {
        assert!(message.contains(" at tests/reports.rs:"), "{message}");
        assert_eq!(fields["syscall"], "clock_nanosleep");
        assert!(
            fields["location"].as_str().unwrap().starts_with("tests/reports.rs:"),
            "{fields:#?}"
        );
        let stack = fields["stack"].as_str().unwrap();
        assert!(stack.starts_with("clock_nanosleep\n") && !stack.contains("axum"), "{stack}");
        assert!(fields.get("missing").is_none());
    } else {
        assert!(fields["missing"].is_string());
    }
    let writers = log.0.lock().unwrap().1.clone();
    assert!(writers.iter().all(|name| name == "tower-stall-log"), "{writers:?}");
}

#[tokio::test]
async fn missing_stacks_are_logged_once() {
    let (log, _guard) = log(Level::INFO).await;
    let (app, monitor) = app(StallMonitor::builder());
    send(&app, "/report/7").await;
    send(&app, "/other").await;
    let expected = 2 + usize::from(!HAS_STACKS && cfg!(feature = "stacks"));
    let events = log.wait_for(expected).await;
    let is_info = |event: &&Value| event["level"] == "INFO";
    assert_eq!(events.iter().filter(is_info).count(), expected - 2, "{events:#?}");
    let is_host_delay = |stall: &Stall| matches!(stall.cause(), Cause::Preempted | Cause::Paused);
    for stall in ended_requests(&monitor) {
        assert!(is_host_delay(&stall) || stall.missing().is_none() == HAS_STACKS, "{stall}");
    }
}

#[test]
fn a_subscriber_that_panics_at_a_notice_loses_no_report() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (report, reports) = mpsc::channel();
    let subscriber = PanickingSubscriber::new(Level::INFO);
    let _subscriber = tracing::subscriber::set_default(subscriber.clone());
    let monitor = StallMonitor::builder()
        .runtime(runtime.handle().clone())
        // While the first stack is being symbolized, the runtime seems to be stalled.
        .on_stall(move |stall| {
            if stall.route() != "unattributed" {
                report.send(stall.route().to_owned()).unwrap_or_default();
            }
        })
        .spawn()
        .unwrap();
    for _ in 0..2 {
        let nap = monitor.instrument("nap", async { thread::sleep(Duration::from_millis(60)) });
        runtime.block_on(nap);
        assert_eq!(reports.recv_timeout(DEADLINE).as_deref(), Ok("nap"));
    }
    monitor.shutdown();
    let no_stacks = usize::from(!HAS_STACKS && cfg!(feature = "stacks"));
    assert_eq!(subscriber.events(), 1 + no_stacks, "each notice is logged once");
}

#[tokio::test]
async fn reports_say_that_stacks_are_disabled() {
    let (log, _guard) = log(Level::WARN).await;
    let (app, _monitor) = app(StallMonitor::builder().stacks(false));
    let event = blocked_report(&app, &log).await;
    assert_eq!(event["level"], "WARN");
    let fields = &event["fields"];
    assert!(fields.get("location").is_none() && fields.get("stack").is_none());
    let syscall = HAS_SYSCALLS.then_some("clock_nanosleep");
    assert_eq!(fields.get("syscall").and_then(Value::as_str), syscall, "it needs no stack");
    if cfg!(feature = "stacks") {
        assert_eq!(fields["missing"], "no stack: stacks are disabled");
    }
}

/// On a busy machine the thread waits for a core as well, so the polls become longer until one has
/// computed for longer than the threshold. Where that wait is not known, it counts as off-CPU.
#[test]
fn a_handler_that_computes_is_reported_as_such() {
    let runtime = support::runtime(1);
    // It writes no event, which needs a subscriber.
    let monitor = support::builder_for(&runtime).reports_per_minute(0).spawn().unwrap();
    let mut length = Duration::ZERO;
    let has_computed = |stall: &Stall| stall.cpu_time() > stall.threshold();
    eventually("a poll has computed for longer than the threshold", || {
        length += Duration::from_millis(150);
        let compute = monitor.instrument("compute", async move {
            let start = Instant::now();
            while start.elapsed() < length {}
        });
        runtime.block_on(runtime.spawn(compute)).unwrap();
        ended_requests(&monitor).iter().any(has_computed)
    });
    let stall = ended_requests(&monitor).into_iter().find(has_computed).unwrap();
    let is_cpu = stall.cpu_time() >= stall.off_cpu_time();
    assert_eq!(stall.cause(), if is_cpu { Cause::Cpu } else { Cause::Blocked }, "{stall}");
}

/// Returns the span of the report of a request to a router that `add_layers` has completed, under a
/// filter of `INFO`.
async fn span_of_report(add_layers: fn(Router, &StallMonitor) -> Router) -> Value {
    let (log, _guard) = log_if(|metadata| *metadata.level() <= Level::INFO).await;
    let monitor = StallMonitor::builder().spawn().unwrap();
    let block = || async { thread::sleep(Duration::from_millis(150)) };
    let app = add_layers(Router::new().route("/report/{id}", get(block)), &monitor);
    send(&app, "/report/7").await;
    let report = || log.events().into_iter().find(|event| event["fields"]["route"].is_string());
    eventually_async("the stall is reported", || report().is_some()).await;
    report().unwrap()["span"].clone()
}

/// The order that the guide shows, and the others that it describes.
#[tokio::test]
async fn a_report_stands_in_the_span_of_a_trace_layer_at_info_that_is_added_later() {
    fn at_info(app: Router) -> Router {
        let make_span = DefaultMakeSpan::new().level(Level::INFO);
        app.layer(TraceLayer::new_for_http().make_span_with(make_span))
    }
    let span = span_of_report(|app, monitor| at_info(app.layer(monitor.layer()))).await;
    assert_eq!((&span["name"], &span["uri"]), (&"request".into(), &"/report/7".into()));
    let span = span_of_report(|app, monitor| at_info(app).layer(monitor.layer())).await;
    assert_eq!(span, Value::Null, "the layer is outside the span");
    let span =
        span_of_report(|app, monitor| app.layer(monitor.layer()).layer(TraceLayer::new_for_http()))
            .await;
    assert_eq!(span, Value::Null, "the span has the level DEBUG");
}

#[tokio::test]
async fn a_long_stall_is_reported_while_in_progress_in_its_span() {
    let (log, _guard) = log(Level::WARN).await;
    let monitor = StallMonitor::builder().spawn().unwrap();
    let events = log.clone();
    // A report of a stall in progress is not written once the stall has ended.
    let block = move || async move {
        eventually("it is reported at one and at two seconds", || events.events().len() == 2);
    };
    let app = traced(Router::new().route("/long", get(block)).layer(monitor.layer()));
    send(&app, "/long").await;
    let events = log.wait_for(3).await;
    let age = |event: &Value| {
        let fields = &event["fields"];
        (
            fields["in_progress"].as_bool().unwrap(),
            fields["duration_ms"].as_f64().unwrap() as u64 / 1_000,
        )
    };
    let ages: Vec<_> = events.iter().map(age).collect();
    assert_eq!(ages[..2], [(true, 1), (true, 2)]);
    assert!(!ages[2].0 && ages[2].1 >= 2, "{ages:?}");
    assert!(events.iter().all(|event| event["span"]["path"] == "/long"), "{events:#?}");
}

#[tokio::test]
async fn reports_are_limited_per_route() {
    let (log, _guard) = log(Level::WARN).await;
    let (app, monitor) = app(StallMonitor::builder().stacks(false).reports_per_minute(2));
    for _ in 0..5 {
        send(&app, "/report/1").await;
    }
    send(&app, "/other").await;
    let events = log.wait_for(3).await;
    let routes: Vec<_> =
        events.iter().map(|event| event["fields"]["route"].as_str().unwrap().to_owned()).collect();
    assert_eq!(routes, ["/report/{id}", "/report/{id}", "/other"]);
    assert_eq!(monitor.recent_stalls().len(), 6, "a stall is missing");
}

/// Returns the stalls that have ended, without those of the test itself, which is an uninstrumented
/// task on its runtime's only thread.
fn ended_requests(monitor: &StallMonitor) -> Vec<Stall> {
    ended(monitor).into_iter().filter(|stall| stall.route() != "unattributed").collect()
}

#[tokio::test]
async fn the_last_256_stalls_are_kept_oldest_first() {
    let monitor = StallMonitor::builder()
        .stall_threshold(Duration::from_nanos(1))
        .reports_per_minute(0)
        .spawn()
        .unwrap();
    for number in 0..300 {
        monitor.instrument(&format!("task-{number}"), async {}).await;
        let route = format!("task-{number}");
        eventually("its stall is reported", || {
            ended_requests(&monitor).last().is_some_and(|stall| stall.route() == route)
        });
    }
    let kept = ended(&monitor).len();
    let routes: Vec<_> =
        ended_requests(&monitor).iter().map(|stall| stall.route().to_owned()).collect();
    let expected: Vec<_> =
        (300 - routes.len()..300).map(|number| format!("task-{number}")).collect();
    assert_eq!((kept, routes), (256, expected));
}

/// Otherwise a client that chooses the name of a file could forge lines of the log.
#[cfg(stacks_supported)]
#[test]
fn the_name_of_a_file_cannot_forge_a_report() {
    let dir = std::env::temp_dir().join(format!("tower-stall-names-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let fifo = dir.join("\u{1b}[2Jname\nGET forged stalled worker 0\u{202e}\u{2028}");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // Open for both, it blocks a reader, not the opening.
    let mut pipe = std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let mut writer = pipe.try_clone().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();

    let runtime = support::runtime(2);
    let monitor = support::monitor_for(&runtime);
    let read = monitor.instrument("read", async move {
        io::Read::read_exact(&mut pipe, &mut [0]).unwrap();
    });
    let task = runtime.spawn(read);
    eventually("its detail is known", || {
        monitor.recent_stalls().iter().any(|stall| stall.detail().is_some())
    });
    io::Write::write_all(&mut writer, b"x").unwrap();
    runtime.block_on(task).unwrap();
    eventually("it has ended", || !ended(&monitor).is_empty());
    let stall = ended(&monitor).remove(0);
    let detail = stall.detail().unwrap();
    assert!(detail.contains("_[2Jname_GET forged stalled worker 0__"), "{detail:?}");
    #[cfg_attr(not(feature = "serde"), allow(unused_mut))]
    let mut texts = vec![stall.to_string(), format!("{stall:#}")];
    #[cfg(feature = "serde")]
    texts.push(serde_json::to_string(&stall).unwrap());
    for text in texts {
        let is_deceptive = |c: char| c != '\n' && c.is_control() || "\u{202e}\u{2028}".contains(c);
        assert!(!text.contains(is_deceptive), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("GET forged")), "{text}");
    }
}
