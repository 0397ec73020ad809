//! Tests of what is exported, each in a process of its own, as the recorder is the process's.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]
#![cfg(all(feature = "axum", feature = "prometheus"))]

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::runtime::Builder;
use tower::ServiceExt;
use tower_stall::StallMonitor;
use tower_stall::prometheus::{buckets, serve};

const ALONE: &str = "TOWER_STALL_ALONE";

/// Runs the body of a test in a process of its own.
fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let exe = std::env::current_exe().unwrap();
    let run = Command::new(exe).args([test, "--exact", "--nocapture"]).env(ALONE, "1").output().unwrap();
    assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn scrape(addr: SocketAddr) -> String {
    let (head, body) = get_page(addr, "/metrics");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    body
}

fn get_page(addr: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    (head.to_owned(), body.to_owned())
}

/// The value of the first series that begins with `series`.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.rsplit(' ').next()?.parse().ok())
}

fn app(monitor: &StallMonitor) -> Router {
    let block = || async { thread::sleep(Duration::from_secs(3)) };
    Router::new()
        .route("/users/{id}", get(|| async { "user" }))
        .route("/nap", get(|| async { thread::sleep(Duration::from_millis(40)) }))
        .route("/block", get(block))
        .layer(monitor.layer())
}

async fn ask(app: &Router, path: &str) {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    let body = app.clone().oneshot(request).await.unwrap().into_body();
    axum::body::to_bytes(body, usize::MAX).await.unwrap();
}

#[test]
fn a_scrape_during_a_block_of_the_only_worker_answers_and_shows_it() {
    alone("a_scrape_during_a_block_of_the_only_worker_answers_and_shows_it", || {
        let metrics = serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let monitor = StallMonitor::builder().runtime(runtime.handle().clone()).spawn().unwrap();
        let app = app(&monitor);
        let blocked = runtime.spawn(async move { ask(&app, "/block").await });
        let in_progress = r#"tower_stall_in_progress_seconds{method="GET",route="/block"}"#;
        let stalled = r#"tower_stall_workers_stalled{runtime="main"}"#;
        eventually("the stall shows", || value(&scrape(metrics), in_progress).is_some_and(|age| age > 0.0));
        assert!(!blocked.is_finished(), "shown only after the block");
        let text = scrape(metrics);
        assert_eq!(value(&text, stalled), Some(1.0), "{text}");
        assert_eq!(value(&text, r#"tower_stall_requests_in_flight{method="GET",route="/block"}"#), Some(1.0));
        let first = value(&text, in_progress).unwrap();
        eventually("it grows", || value(&scrape(metrics), in_progress).unwrap() > first);
        let busy = r#"tower_stall_worker_busy_ratio{runtime="main",worker="0"}"#;
        eventually("its worker is busy", || value(&scrape(metrics), busy).is_some_and(|ratio| ratio > 0.9));
        assert!(!blocked.is_finished(), "busy only after the block");
        runtime.block_on(blocked).unwrap();
        eventually("it is over", || value(&scrape(metrics), in_progress) == Some(0.0));
        eventually("no worker is stalled", || value(&scrape(metrics), stalled) == Some(0.0));
        let stolen = r#"tower_stall_duration_seconds_sum{method="GET",route="/block",cause="blocked"}"#;
        // The counter's rate is measured at the start, on a busy machine not too well.
        eventually("it is counted", || value(&scrape(metrics), stolen).is_some_and(|sum| (2.9..4.0).contains(&sum)));
        let lag = r#"tower_stall_lag_seconds_count{runtime="main",probe="timer"}"#;
        eventually("missed probes are filled in", || value(&scrape(metrics), lag).is_some_and(|count| count >= 20.0));
    });
}

#[test]
fn what_is_scraped_passes_promtool() {
    alone("what_is_scraped_passes_promtool", || {
        let metrics = serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
        let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
        let monitor = StallMonitor::builder().runtime(runtime.handle().clone()).spawn().unwrap();
        let app = app(&monitor);
        runtime
            .block_on(runtime.spawn(async move {
                for path in ["/users/1", "/nowhere", "/nap"] {
                    ask(&app, path).await;
                }
            }))
            .unwrap();
        let all = [
            "_lag_seconds_count",
            "_blocking_pool_delay_seconds_count",
            "_duration_seconds_count{method=\"GET\",route=\"/nap\"",
        ];
        eventually("all series are there", || {
            let text = scrape(metrics);
            all.iter().all(|name| text.contains(&format!("tower_stall{name}")))
        });
        let text = scrape(metrics);
        assert!(!text.contains("nowhere"), "a raw path is a label");
        assert!(text.contains(r#"route="/users/{id}""#) && text.contains(r#"route="unmatched""#), "{text}");
        assert!(!text.contains("quantile="), "a summary");
        let Ok(mut promtool) = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        else {
            println!("skipped: promtool is not installed (Debian's package prometheus has it)");
            return;
        };
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let said = promtool.wait_with_output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert_eq!(said.trim(), "", "{text}");
    });
}

/// Ten million polls from a plain thread, and how much the process has grown by then, in MiB.
fn ten_million_polls(monitor: &StallMonitor) -> f64 {
    const POLLS: u32 = 10_000_000;
    let mut task = Box::pin(monitor.instrument(
        "ten-million",
        std::future::poll_fn({
            let mut left = POLLS;
            move |_| {
                left -= 1;
                if left == 0 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            }
        }),
    ));
    let mut cx = Context::from_waker(Waker::noop());
    (0..100_000).for_each(|_| assert!(task.as_mut().poll(&mut cx).is_pending()));
    thread::sleep(Duration::from_millis(1_500));
    let before = resident();
    while task.as_mut().poll(&mut cx).is_pending() {}
    // The samples on their way, too.
    thread::sleep(Duration::from_millis(3_000));
    (resident() - before) as f64 / 1024.0
}

/// Resident memory in KiB, 0 where that is not known.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

const TEN_MILLION: &str =
    r#"tower_stall_poll_duration_seconds_count{method="TASK",route="ten-million",phase="handler"}"#;

#[test]
fn ten_million_polls_without_a_scrape_cost_no_memory() {
    alone("ten_million_polls_without_a_scrape_cost_no_memory", || {
        let metrics = serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let monitor = StallMonitor::builder().runtime(runtime.handle().clone()).spawn().unwrap();
        let grown = ten_million_polls(&monitor);
        println!("{grown:.2} MiB");
        assert!(grown < 8.0, "{grown:.2} MiB");
        eventually("all are counted", || value(&scrape(metrics), TEN_MILLION) == Some(1e7));
    });
}

#[test]
fn nor_do_they_under_another_exporter_whose_upkeep_runs() {
    alone("nor_do_they_under_another_exporter_whose_upkeep_runs", || {
        let handle = own_exporter(buckets(PrometheusBuilder::new()));
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_secs(5));
                handle.run_upkeep();
            }
        });
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let monitor = StallMonitor::builder().runtime(runtime.handle().clone()).spawn().unwrap();
        let grown = ten_million_polls(&monitor);
        println!("{grown:.2} MiB");
        assert!(grown < 8.0, "{grown:.2} MiB");
    });
}

fn own_exporter(builder: PrometheusBuilder) -> PrometheusHandle {
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).unwrap();
    handle
}

#[test]
fn a_recorder_installed_after_the_first_request_gets_everything_from_then_on() {
    alone("a_recorder_installed_after_the_first_request_gets_everything_from_then_on", || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let monitor = StallMonitor::builder().runtime(runtime.handle().clone()).spawn().unwrap();
        let app = app(&monitor);
        runtime.block_on(ask(&app, "/users/1"));
        // Long enough for a flush into nothing.
        thread::sleep(Duration::from_millis(1_500));
        let handle = own_exporter(buckets(PrometheusBuilder::new()));
        (0..3).for_each(|_| runtime.block_on(ask(&app, "/users/2")));
        let requests = r#"tower_stall_requests_total{method="GET",route="/users/{id}",outcome="2xx"}"#;
        eventually("three requests", || value(&handle.render(), requests) == Some(3.0));
        let polls = r#"tower_stall_request_busy_seconds_count{method="GET",route="/users/{id}"}"#;
        eventually("three samples", || value(&handle.render(), polls) == Some(3.0));
        let text = handle.render();
        assert!(text.contains("# HELP tower_stall_requests_total "));
        for name in ["workers_stalled{runtime=", "in_progress_seconds{", "rescues_total{", "events_dropped_total"] {
            // Routes are handed over first, the rest a moment later.
            eventually(name, || value(&handle.render(), &format!("tower_stall_{name}")) == Some(0.0));
        }
    });
}

#[test]
fn an_idle_timeout_loses_no_later_sample() {
    alone("an_idle_timeout_loses_no_later_sample", || {
        // Long, as on a busy machine the reporter may come late.
        let idle = Some(Duration::from_secs(4));
        let handle =
            own_exporter(buckets(PrometheusBuilder::new()).idle_timeout(metrics_util::MetricKindMask::ALL, idle));
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let monitor = StallMonitor::builder().runtime(runtime.handle().clone()).spawn().unwrap();
        let app = app(&monitor);
        let requests = r#"tower_stall_requests_total{method="GET",route="/users/{id}",outcome="2xx"}"#;
        let polls = r#"tower_stall_request_busy_seconds_count{method="GET",route="/users/{id}"}"#;
        runtime.block_on(ask(&app, "/users/1"));
        eventually("a first request", || value(&handle.render(), polls) == Some(1.0));
        eventually("its series is dropped", || value(&handle.render(), polls).is_none());
        runtime.block_on(ask(&app, "/users/2"));
        eventually("the next sample", || value(&handle.render(), polls) == Some(1.0));
        eventually("both requests", || value(&handle.render(), requests) == Some(2.0));
        let in_flight = r#"tower_stall_requests_in_flight{method="TASK",route="waits"}"#;
        let _task = monitor.instrument("waits", std::future::pending::<()>());
        eventually("a task in flight", || value(&handle.render(), in_flight) == Some(1.0));
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(250));
            assert_eq!(value(&handle.render(), in_flight), Some(1.0), "a gauge that holds is dropped");
        }
    });
}

#[test]
fn names_stay_what_they_are_under_recommended_naming() {
    alone("names_stay_what_they_are_under_recommended_naming", || {
        let handle = own_exporter(buckets(PrometheusBuilder::new()).with_recommended_naming(true));
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let monitor = StallMonitor::builder().runtime(runtime.handle().clone()).spawn().unwrap();
        runtime.block_on(ask(&app(&monitor), "/users/1"));
        eventually("requests", || handle.render().contains("\ntower_stall_requests_total{"));
        let text = handle.render();
        assert!(text.contains("\ntower_stall_poll_duration_seconds_bucket{"), "{text}");
        assert!(!text.contains("_total_total") && !text.contains("seconds_seconds"), "{text}");
    });
}

#[test]
fn an_address_in_use_and_a_second_recorder_are_clear_errors_and_a_retry_works() {
    alone("an_address_in_use_and_a_second_recorder_are_clear_errors_and_a_retry_works", || {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = serve(taken.local_addr().unwrap()).unwrap_err().to_string();
        assert!(error.contains("in use") && error.contains("choose another port"), "{error}");
        let first = serve(([127, 0, 0, 1], 0)).unwrap();
        let second = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = serve(second).unwrap_err().to_string();
        assert!(error.contains("recorder already") && error.contains("buckets"), "{error}");
        eventually("the refused address is free", || std::net::TcpListener::bind(second).is_ok());
        metrics::counter!("my_own_total").increment(5);
        eventually("other metrics are served too", || value(&scrape(first.local_addr()), "my_own_total") == Some(5.0));
    });
}

#[test]
fn other_paths_and_methods_are_told_where_to_go() {
    alone("other_paths_and_methods_are_told_where_to_go", || {
        let addr = serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
        let ask = |line: &str| {
            let mut stream = TcpStream::connect(addr).unwrap();
            write!(stream, "{line} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        assert!(ask("GET /").starts_with("HTTP/1.1 404"));
        assert!(ask("POST /metrics").starts_with("HTTP/1.1 405"));
        assert!(ask("HEAD /metrics").starts_with("HTTP/1.1 200"));
        assert!(ask("GET /stalls").starts_with("HTTP/1.1 404"));
    });
}

#[test]
fn stalls_that_are_shown_can_be_read_while_the_only_worker_is_held() {
    alone("stalls_that_are_shown_can_be_read_while_the_only_worker_is_held", || {
        let server = serve(([127, 0, 0, 1], 0)).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let monitor = StallMonitor::builder().runtime(runtime.handle().clone()).spawn().unwrap();
        let shown = monitor.clone();
        server.show_stalls(move || shown.recent_stalls());
        let app = app(&monitor);
        let blocked = runtime.spawn(async move {
            ask(&app, "/nap").await;
            ask(&app, "/block").await;
        });
        let stalls = || get_page(server.local_addr(), "/stalls").1;
        eventually("the one in progress is shown", || stalls().starts_with("GET /block has held its thread"));
        assert!(!blocked.is_finished(), "shown only after the block");
        eventually("so is the one before", || stalls().contains("\nGET /nap held its thread"));
        runtime.block_on(blocked).unwrap();
        eventually("the last one is first", || stalls().starts_with("GET /block held its thread"));
    });
}

#[test]
fn several_monitors_on_one_route_add_up() {
    alone("several_monitors_on_one_route_add_up", || {
        let addr = serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let monitor =
            |name| StallMonitor::builder().runtime(runtime.handle().clone()).runtime_name(name).spawn().unwrap();
        let (one, other) = (monitor("one"), monitor("other"));
        let tasks = [
            one.instrument("shared", std::future::pending::<()>()),
            other.instrument("shared", std::future::pending()),
        ];
        let in_flight = r#"tower_stall_requests_in_flight{method="TASK",route="shared"}"#;
        eventually("both count", || value(&scrape(addr), in_flight) == Some(2.0));
        drop(tasks);
        eventually("none is left", || value(&scrape(addr), in_flight) == Some(0.0));
        let text = scrape(addr);
        for name in ["one", "other"] {
            assert_eq!(value(&text, &format!("tower_stall_workers{{runtime=\"{name}\"}}")), Some(1.0), "{text}");
        }
    });
}
