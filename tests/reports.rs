//! Tests of the reports: `tracing` events inside the request's own span, limited by route, never written by a polling thread.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(feature = "axum")]

use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use serde_json::Value;
use tower::ServiceExt;
use tower_stall::{StallMonitor, StallMonitorBuilder};
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

/// What the subscriber has written, and by which threads.
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
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.events().len() < count {
            assert!(Instant::now() < deadline, "{:?}", self.events());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.events()
    }
}

const HAS_STACKS: bool = cfg!(all(
    feature = "stacks",
    target_os = "linux",
    target_arch = "x86_64",
    target_env = "gnu",
    not(tower_stall_elsewhere)
));

/// One test with a subscriber at a time: where another subscriber comes or goes while a call site is registered, tracing may not
/// ask ours about it, and the request has no span.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What is told from `level` on, for as long as the guards live.
async fn log(level: Level) -> (Log, (tracing::subscriber::DefaultGuard, tokio::sync::MutexGuard<'static, ()>)) {
    let alone = ALONE.lock().await;
    let log = Log::default();
    let spans = tracing_subscriber::EnvFilter::new(format!("{level},[request]=info"));
    let subscriber = tracing_subscriber::fmt().json().with_env_filter(spans).with_writer(log.clone()).finish();
    (log, (tracing::subscriber::set_default(subscriber), alone))
}

fn app(builder: StallMonitorBuilder) -> (Router, StallMonitor) {
    let monitor = builder.spawn().unwrap();
    // Several thresholds, so that a machine under load does not change the verdict.
    let block = |millis| move || async move { thread::sleep(Duration::from_millis(millis)) };
    let app = Router::new()
        .route("/report/{id}", get(block(150)))
        .route("/other", get(block(150)))
        .route("/long", get(block(2_300)))
        .layer(monitor.layer())
        .layer(
            tower_http::trace::TraceLayer::new_for_http()
                .make_span_with(|request: &Request<Body>| tracing::info_span!("request", path = request.uri().path())),
        );
    (app, monitor)
}

async fn ask(app: &Router, path: &str) {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    drop(app.clone().oneshot(request).await.unwrap());
}

/// Asks until a report puts the blame on the handler, as on a busy machine it is not always the handler's.
async fn ask_for_a_report(app: &Router, log: &Log) -> Value {
    for asked in 0..8 {
        ask(app, "/report/7").await;
        let event = log.wait_for(asked + 1).await.remove(asked);
        if event["fields"]["cause"] == "blocked" {
            return event;
        }
    }
    panic!("{:#?}", log.events());
}

#[tokio::test]
async fn a_report_has_all_its_fields_and_stands_in_the_request_s_span() {
    let (log, _guard) = log(Level::WARN).await;
    let (app, _monitor) = app(StallMonitor::builder());
    let event = ask_for_a_report(&app, &log).await;
    assert_eq!((&event["level"], &event["target"]), (&"WARN".into(), &"tower_stall".into()));
    assert_eq!(event["span"]["path"], "/report/7", "{event:#?}");
    let fields = &event["fields"];
    assert_eq!(fields["method"], "GET");
    assert_eq!(fields["route"], "/report/{id}");
    assert_eq!(fields["phase"], "handler");
    assert_eq!(fields["cause"], "blocked");
    assert_eq!(fields["threshold_ms"].as_f64().unwrap().round(), 25.0);
    assert!(fields["duration_ms"].as_f64().unwrap() >= 150.0);
    assert_eq!(fields["worker"], 0);
    assert_eq!(fields["held_up"], 0);
    assert_eq!(fields["in_progress"], false);
    assert_eq!(fields["suppressed"], 0);
    for field in ["io_starved", "rescued"] {
        assert!(fields[field].is_boolean(), "{field}");
    }
    if HAS_STACKS {
        assert_eq!(fields["syscall"], "clock_nanosleep");
        assert!(fields["location"].as_str().unwrap().starts_with("tests/reports.rs:"), "{fields:#?}");
        let stack = fields["stack"].as_str().unwrap();
        assert!(stack.starts_with("clock_nanosleep\n") && !stack.contains("axum"), "{stack}");
        assert!(fields.get("missing").is_none());
    } else {
        assert!(fields["missing"].is_string());
    }
    let writers = log.0.lock().unwrap().1.clone();
    assert!(writers.iter().all(|name| name == "tower-stall-report"), "{writers:?}");
}

#[tokio::test]
async fn that_there_are_no_stacks_is_said_once_where_they_are_wanted() {
    let (log, _guard) = log(Level::INFO).await;
    let (app, monitor) = app(StallMonitor::builder());
    ask(&app, "/report/7").await;
    ask(&app, "/other").await;
    let expected = 2 + usize::from(!HAS_STACKS && cfg!(feature = "stacks"));
    let events = log.wait_for(expected).await;
    let is_info = |event: &&Value| event["level"] == "INFO";
    assert_eq!(events.iter().filter(is_info).count(), expected - 2, "{events:#?}");
    let blocked = |stall: &tower_stall::Stall| stall.cause() == tower_stall::Cause::Blocked;
    for stall in finished(&monitor).into_iter().filter(blocked) {
        assert_eq!(stall.missing().is_some(), !HAS_STACKS, "{stall}");
    }
}

#[tokio::test]
async fn stacks_that_are_switched_off_are_said_to_be_so_in_each_report() {
    let (log, _guard) = log(Level::WARN).await;
    let (app, _monitor) = app(StallMonitor::builder().stacks(false));
    let event = ask_for_a_report(&app, &log).await;
    assert_eq!(event["level"], "WARN");
    let fields = &event["fields"];
    assert!(fields.get("location").is_none() && fields.get("stack").is_none());
    assert_eq!(fields["syscall"], "clock_nanosleep", "the cause needs no stack");
    if cfg!(feature = "stacks") {
        assert_eq!(fields["missing"], "stacks are switched off");
    }
}

#[tokio::test]
async fn a_stall_that_lasts_is_reported_while_it_lasts_inside_its_span() {
    let (log, _guard) = log(Level::WARN).await;
    let (app, _monitor) = app(StallMonitor::builder());
    ask(&app, "/long").await;
    let events = log.wait_for(3).await;
    let told = |event: &Value| {
        let fields = &event["fields"];
        (fields["in_progress"].as_bool().unwrap(), fields["duration_ms"].as_f64().unwrap() as u64 / 1_000)
    };
    let told: Vec<_> = events.iter().map(told).collect();
    assert_eq!(told, [(true, 1), (true, 2), (false, 2)]);
    assert!(events.iter().all(|event| event["span"]["path"] == "/long"), "{events:#?}");
}

#[tokio::test]
async fn a_noisy_route_is_limited_alone_and_the_next_report_says_how_many_were_left_out() {
    let (log, _guard) = log(Level::WARN).await;
    let (app, monitor) = app(StallMonitor::builder().stacks(false).reports_per_minute(2));
    for _ in 0..5 {
        ask(&app, "/report/1").await;
    }
    ask(&app, "/other").await;
    let events = log.wait_for(3).await;
    let routes: Vec<_> = events.iter().map(|event| event["fields"]["route"].as_str().unwrap().to_owned()).collect();
    assert_eq!(routes, ["/report/{id}", "/report/{id}", "/other"]);
    assert_eq!(monitor.recent_stalls().len(), 6, "only reports are limited");
}

/// Without what this test itself does: it holds its runtime's only thread.
fn finished(monitor: &StallMonitor) -> Vec<tower_stall::Stall> {
    monitor
        .recent_stalls()
        .into_iter()
        .filter(|stall| !stall.is_in_progress() && stall.route() != "unattributed")
        .collect()
}

#[tokio::test]
async fn the_last_256_are_kept_oldest_first() {
    let monitor =
        StallMonitor::builder().stall_threshold(Duration::from_nanos(1)).reports_per_minute(0).spawn().unwrap();
    for number in 0..300 {
        monitor.instrument(&format!("task-{number}"), async {}).await;
        let deadline = Instant::now() + Duration::from_secs(30);
        while finished(&monitor).last().is_none_or(|stall| stall.route() != format!("task-{number}")) {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
    }
    let kept = monitor.recent_stalls().into_iter().filter(|stall| !stall.is_in_progress()).count();
    let routes: Vec<_> = finished(&monitor).iter().map(|stall| stall.route().to_owned()).collect();
    let expected: Vec<_> = (300 - routes.len()..300).map(|number| format!("task-{number}")).collect();
    assert_eq!((kept, routes), (256, expected));
}
