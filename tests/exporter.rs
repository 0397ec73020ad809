//! Tests of the exported metrics. The recorder is process-wide, so each has its own process.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]
#![cfg(all(feature = "axum", feature = "prometheus"))]

mod support;

use std::error::Error;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tower::ServiceExt;
use tower_stall::StallMonitor;
use tower_stall::prometheus::{buckets, serve};
use tracing::Level;

use self::support::{
    PanickingSubscriber, builder_for, current_thread_runtime, eventually, holds_for, http_get,
    http_request, in_own_process, monitor_for, runtime,
};

/// Scrapes an exporter, and checks the content type.
fn scrape(addr: SocketAddr) -> String {
    let response = http_get(addr, "/metrics");
    assert!(response.head.contains("content-type: text/plain; version=0.0.4"), "{response:?}");
    response.body
}

/// Returns the value of the first series that begins with `series`.
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

async fn send(app: &Router, path: &str) {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    let body = app.clone().oneshot(request).await.unwrap().into_body();
    axum::body::to_bytes(body, usize::MAX).await.unwrap();
}

#[test]
fn a_scrape_during_a_stall_of_the_only_worker_shows_it() {
    in_own_process(|| {
        let metrics = serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
        let runtime = runtime(1);
        let monitor = monitor_for(&runtime);
        let app = app(&monitor);
        let blocked = runtime.spawn(async move { send(&app, "/block").await });
        let in_progress = r#"tower_stall_in_progress_seconds{method="GET",route="/block"}"#;
        let stalled = r#"tower_stall_workers_stalled{runtime="main"}"#;
        eventually("the stall is shown", || {
            value(&scrape(metrics), in_progress).is_some_and(|age| age > 0.0)
        });
        assert!(!blocked.is_finished(), "shown only after the stall");
        let text = scrape(metrics);
        assert_eq!(value(&text, stalled), Some(1.0), "{text}");
        assert_eq!(
            value(&text, r#"tower_stall_requests_in_flight{method="GET",route="/block"}"#),
            Some(1.0)
        );
        let first = value(&text, in_progress).unwrap();
        eventually("it grows", || value(&scrape(metrics), in_progress).unwrap() > first);
        let busy = r#"tower_stall_worker_busy_ratio{runtime="main",worker="0"}"#;
        eventually("its worker is busy", || {
            value(&scrape(metrics), busy).is_some_and(|ratio| ratio > 0.9)
        });
        assert!(!blocked.is_finished(), "shown as busy only after the stall");
        runtime.block_on(blocked).unwrap();
        eventually("it has ended", || value(&scrape(metrics), in_progress) == Some(0.0));
        eventually("no worker is stalled", || value(&scrape(metrics), stalled) == Some(0.0));
        let duration =
            r#"tower_stall_duration_seconds_sum{method="GET",route="/block",cause="blocked"}"#;
        // The rate of the time stamp counter is measured at the start, less exactly on a busy
        // machine.
        eventually("it is counted", || {
            value(&scrape(metrics), duration).is_some_and(|sum| (2.9..4.0).contains(&sum))
        });
        let lag = r#"tower_stall_lag_seconds_count{runtime="main",probe="timer"}"#;
        eventually("missed probes are corrected for", || {
            value(&scrape(metrics), lag).is_some_and(|count| count >= 20.0)
        });
    });
}

#[test]
fn scraped_text_passes_promtool() {
    in_own_process(|| {
        let metrics = serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
        let runtime = runtime(2);
        let monitor = monitor_for(&runtime);
        let app = app(&monitor);
        runtime
            .block_on(runtime.spawn(async move {
                for path in ["/users/1", "/nowhere", "/nap"] {
                    send(&app, path).await;
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
        assert!(
            text.contains(r#"route="/users/{id}""#) && text.contains(r#"route="unmatched""#),
            "{text}"
        );
        assert!(!text.contains("quantile="), "a summary");
        assert!(text.contains("\n# TYPE tower_stall_stalled_seconds_total counter\n"), "{text}");
        assert_split_adds_up(&text);
        let Ok(mut promtool) = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        else {
            assert!(std::env::var_os("CI").is_none(), "promtool is not installed");
            println!("skipped: promtool is not installed (Debian's package prometheus has it)");
            return;
        };
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let findings = [output.stdout, output.stderr].concat();
        assert_eq!(String::from_utf8_lossy(&findings).trim(), "", "{text}");
        assert!(output.status.success(), "{}", output.status);
    });
}

/// Checks that where the time of stalls went adds up to their duration, and is there without any.
fn assert_split_adds_up(text: &str) {
    let sum = |name: &str, route: &str| {
        let series = format!("tower_stall_{name}{{method=\"GET\",route=\"{route}\"");
        let lines = text.lines().filter(|line| line.starts_with(&series));
        let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        values.fold((0, 0.0), |(count, sum), value| (count + 1, sum + value))
    };
    let (split, duration) =
        (sum("stalled_seconds_total", "/nap"), sum("duration_seconds_sum", "/nap").1);
    assert_eq!(split.0, 4, "{text}");
    assert!(duration > 0.0 && (split.1 - duration).abs() < 1e-6, "{split:?}, {duration}");
    let without_stalls = sum("stalled_seconds_total", "unmatched");
    assert_eq!(without_stalls.0, 4, "{text}");
}

/// Checks that the process hardly grows by ten million polls on one thread.
fn assert_ten_million_polls_use_little_memory(monitor: &StallMonitor) {
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
    // A bounded wait: without a scrape it is not observable when these samples are handed over.
    thread::sleep(FLUSHED);
    let before = resident();
    while task.as_mut().poll(&mut cx).is_pending() {}
    // Longer, to include the samples on their way.
    holds_for(2 * FLUSHED, "the process has grown by less than 8 MiB", || {
        resident() - before < 8 * 1024
    });
}

/// Returns the resident memory in KiB, or 0 where it is not known.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

/// Longer than the longest interval between two flushes, which is 1 s.
const FLUSHED: Duration = Duration::from_millis(2_500);

const TEN_MILLION: &str =
    r#"tower_stall_poll_duration_seconds_count{method="TASK",route="ten-million",phase="handler"}"#;

#[test]
fn ten_million_polls_without_a_scrape_use_little_memory() {
    in_own_process(|| {
        let metrics = serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
        let runtime = current_thread_runtime();
        let monitor = monitor_for(&runtime);
        assert_ten_million_polls_use_little_memory(&monitor);
        eventually("all are counted", || value(&scrape(metrics), TEN_MILLION) == Some(1e7));
    });
}

/// The exporter's upkeep runs every 5 s.
#[test]
fn ten_million_polls_use_little_memory_under_another_exporter() {
    in_own_process(|| {
        let handle = install_exporter(buckets(PrometheusBuilder::new()));
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_secs(5));
                handle.run_upkeep();
            }
        });
        let runtime = current_thread_runtime();
        let monitor = monitor_for(&runtime);
        assert_ten_million_polls_use_little_memory(&monitor);
    });
}

fn install_exporter(builder: PrometheusBuilder) -> PrometheusHandle {
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).unwrap();
    handle
}

#[test]
fn a_recorder_installed_late_gets_everything_from_then_on() {
    in_own_process(|| {
        let runtime = current_thread_runtime();
        let monitor = monitor_for(&runtime);
        let app = app(&monitor);
        runtime.block_on(send(&app, "/users/1"));
        // A bounded wait: a flush without a recorder is not observable.
        thread::sleep(FLUSHED);
        let handle = install_exporter(buckets(PrometheusBuilder::new()));
        (0..3).for_each(|_| runtime.block_on(send(&app, "/users/2")));
        let requests =
            r#"tower_stall_requests_total{method="GET",route="/users/{id}",outcome="2xx"}"#;
        eventually("three requests", || value(&handle.render(), requests) == Some(3.0));
        let polls = r#"tower_stall_request_busy_seconds_count{method="GET",route="/users/{id}"}"#;
        eventually("three samples", || value(&handle.render(), polls) == Some(3.0));
        let text = handle.render();
        assert!(text.contains("# HELP tower_stall_requests_total "));
        for name in [
            "workers_stalled{runtime=",
            "in_progress_seconds{",
            "rescues_total{",
            "events_dropped_total",
        ] {
            // Routes are handed over first, the others just after them.
            eventually(name, || {
                value(&handle.render(), &format!("tower_stall_{name}")) == Some(0.0)
            });
        }
    });
}

#[test]
fn an_idle_timeout_loses_no_later_sample() {
    in_own_process(|| {
        // Long, because on a busy machine the reporter may be late.
        let idle = Some(Duration::from_secs(4));
        let handle = install_exporter(
            buckets(PrometheusBuilder::new()).idle_timeout(metrics_util::MetricKindMask::ALL, idle),
        );
        let runtime = current_thread_runtime();
        let monitor = monitor_for(&runtime);
        let app = app(&monitor);
        let requests =
            r#"tower_stall_requests_total{method="GET",route="/users/{id}",outcome="2xx"}"#;
        let polls = r#"tower_stall_request_busy_seconds_count{method="GET",route="/users/{id}"}"#;
        runtime.block_on(send(&app, "/users/1"));
        eventually("a first request", || value(&handle.render(), polls) == Some(1.0));
        eventually("its series is dropped", || value(&handle.render(), polls).is_none());
        runtime.block_on(send(&app, "/users/2"));
        eventually("the next sample", || value(&handle.render(), polls) == Some(1.0));
        eventually("both requests", || value(&handle.render(), requests) == Some(2.0));
        let in_flight = r#"tower_stall_requests_in_flight{method="TASK",route="waits"}"#;
        let _task = monitor.instrument("waits", std::future::pending::<()>());
        eventually("a task in flight", || value(&handle.render(), in_flight) == Some(1.0));
        // A bounded wait, longer than the timeout.
        holds_for(Duration::from_secs(5), "an unchanged gauge is not dropped", || {
            value(&handle.render(), in_flight) == Some(1.0)
        });
    });
}

#[test]
fn recommended_naming_does_not_change_names() {
    in_own_process(|| {
        let handle =
            install_exporter(buckets(PrometheusBuilder::new()).with_recommended_naming(true));
        let runtime = current_thread_runtime();
        let monitor = monitor_for(&runtime);
        runtime.block_on(send(&app(&monitor), "/users/1"));
        eventually("requests", || handle.render().contains("\ntower_stall_requests_total{"));
        let text = handle.render();
        assert!(text.contains("\ntower_stall_poll_duration_seconds_bucket{"), "{text}");
        assert!(!text.contains("_total_total") && !text.contains("seconds_seconds"), "{text}");
    });
}

/// The errors say what to do, and leave nothing behind.
#[test]
fn serve_fails_on_a_used_address_and_a_second_recorder() {
    in_own_process(|| {
        let used = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = serve(used.local_addr().unwrap()).unwrap_err();
        assert!(error.to_string().contains("choose another port"), "{error}");
        let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(source.kind(), io::ErrorKind::AddrInUse);
        assert!(!error.to_string().contains(&source.to_string()), "{error}");
        let first = serve(([127, 0, 0, 1], 0)).unwrap();
        let second = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = serve(second).unwrap_err().to_string();
        assert!(
            error.contains("already has a `metrics` recorder") && error.contains("buckets"),
            "{error}"
        );
        eventually("the refused address is free", || TcpListener::bind(second).is_ok());
        metrics::counter!("my_own_total").increment(5);
        eventually("other metrics are served too", || {
            value(&scrape(first.local_addr()), "my_own_total") == Some(5.0)
        });
    });
}

#[test]
fn other_paths_and_methods_have_error_statuses() {
    in_own_process(|| {
        let addr = serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
        let status = |method, path| http_request(addr, method, path).status();
        assert_eq!(status("GET", "/"), 404);
        assert_eq!(status("POST", "/metrics"), 405);
        assert_eq!(status("HEAD", "/metrics"), 200);
        assert_eq!(status("GET", "/stalls"), 404);
    });
}

/// The page of an attacker, whose name resolves to this host.
#[test]
fn a_web_page_of_another_name_cannot_read_the_metrics() {
    in_own_process(|| {
        let metrics = serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
        let status_for = |host: &str| {
            let mut stream = TcpStream::connect(metrics).unwrap();
            write!(stream, "GET /metrics HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
                .unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).unwrap();
            assert!(response.contains("x-content-type-options: nosniff"), "{response}");
            response.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
        };
        let hosts = ["localhost:9464", "127.0.0.1", "sidecar", "evil.example"];
        assert_eq!(hosts.map(status_for), [200, 200, 200, 403]);
    });
}

#[test]
fn shown_stalls_can_be_read_while_the_only_worker_is_stalled() {
    in_own_process(|| {
        let server = serve(([127, 0, 0, 1], 0)).unwrap();
        let runtime = runtime(1);
        let monitor = monitor_for(&runtime);
        server.show(&monitor);
        server.show(&monitor);
        let app = app(&monitor);
        let blocked = runtime.spawn(async move {
            send(&app, "/nap").await;
            send(&app, "/block").await;
        });
        let stalls = || http_get(server.local_addr(), "/stalls").body;
        eventually("the stall in progress is shown", || {
            stalls().starts_with("GET /block has been stalling worker 0")
        });
        assert!(!blocked.is_finished(), "shown only after the stall");
        eventually("so is the previous one", || stalls().contains("\nGET /nap stalled worker 0"));
        runtime.block_on(blocked).unwrap();
        eventually("the latest is the first", || {
            stalls().starts_with("GET /block stalled worker 0")
        });
        assert_eq!(stalls().matches("GET /block").count(), 1, "the monitor is shown once");
    });
}

#[test]
fn a_server_does_not_keep_a_shown_monitor_alive() {
    in_own_process(|| {
        let server = serve(([127, 0, 0, 1], 0)).unwrap();
        let runtime = runtime(1);
        let monitor = monitor_for(&runtime);
        server.show(&monitor);
        let nap = monitor.instrument("nap", async { thread::sleep(Duration::from_millis(60)) });
        runtime.block_on(runtime.spawn(nap)).unwrap();
        let stalls = || http_get(server.local_addr(), "/stalls").body;
        eventually("the stall is shown", || stalls().starts_with("TASK nap stalled"));
        drop(monitor);
        eventually("it is not shown any more", || stalls() == "no stalls\n");
        eventually("the monitor's threads have ended", || runtime.metrics().num_alive_tasks() == 0);
    });
}

#[test]
fn gauges_of_several_monitors_add_up() {
    in_own_process(|| {
        let addr = serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
        let runtime = current_thread_runtime();
        let monitor = |name| builder_for(&runtime).runtime_name(name).spawn().unwrap();
        let (first, second) = (monitor("first"), monitor("second"));
        let tasks = [
            first.instrument("shared", std::future::pending::<()>()),
            second.instrument("shared", std::future::pending()),
        ];
        let in_flight = r#"tower_stall_requests_in_flight{method="TASK",route="shared"}"#;
        eventually("both are counted", || value(&scrape(addr), in_flight) == Some(2.0));
        drop(tasks);
        eventually("none is left", || value(&scrape(addr), in_flight) == Some(0.0));
        let text = scrape(addr);
        for name in ["first", "second"] {
            assert_eq!(
                value(&text, &format!("tower_stall_workers{{runtime=\"{name}\"}}")),
                Some(1.0),
                "{text}"
            );
        }
    });
}

#[test]
fn gauges_are_withdrawn_although_the_subscriber_panics_at_the_last_report() {
    in_own_process(|| {
        let addr = serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
        let runtime = runtime(1);
        let _subscriber = tracing::subscriber::set_default(PanickingSubscriber::new(Level::WARN));
        let monitor = monitor_for(&runtime);
        let workers = r#"tower_stall_workers{runtime="main"}"#;
        eventually("the gauge is set", || value(&scrape(addr), workers) == Some(1.0));
        let nap = monitor.instrument("nap", async { thread::sleep(Duration::from_millis(60)) });
        runtime.block_on(runtime.spawn(nap)).unwrap();
        monitor.shutdown();
        assert_eq!(value(&scrape(addr), workers), Some(0.0));
    });
}

#[cfg(all(target_os = "linux", feature = "stacks", not(stacks_supported)))]
#[test]
fn captures_that_this_platform_does_not_support_are_counted() {
    in_own_process(|| {
        let metrics = serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
        let runtime = runtime(1);
        let monitor = monitor_for(&runtime);
        let app = app(&monitor);
        runtime.block_on(runtime.spawn(async move { send(&app, "/nap").await })).unwrap();
        let captures = r#"tower_stall_stack_captures_total{result="unsupported"}"#;
        eventually("the capture is counted", || {
            value(&scrape(metrics), captures).is_some_and(|count| count >= 1.0)
        });
    });
}
