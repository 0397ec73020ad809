//! The end-to-end test: real services, a real Prometheus with the rules, and a real Alertmanager.
//!
//! `./x e2e` runs it. It copies the shipped `prometheus.yml`, `alertmanager.yml` and rules, and
//! changes two things in the copies: they use free ports, and all durations are fifteen times
//! shorter (see `time_lapse.rs`). Thresholds are unchanged.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

mod api;
mod stack;
mod time_lapse;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{DASHBOARDS, dashboard, here, list, queries, read, text};

use self::api::{Alert, Alertmanager, Prometheus};
use self::stack::Stack;

/// Routes that block. A busy host does not change the cause of their stalls.
const BLOCKING: [&str; 3] = ["/legacy/report", "/files/{name}", "/cache/{key}"];
/// Routes that compute. On an overloaded host the host causes their stalls, and no alert names
/// them.
const COMPUTING: [&str; 2] = ["/export", "/events"];
const DEADLOCK: &str = "/accounts/{from}/transfer/{to}";
/// Queries that have no data, with the reason.
const EMPTY: [(&str, &str, &str); 1] =
    [("route", "\"Polls handed off\" A", "no handler of the demo uses block_in_place")];
/// Alerts that a busy host may cause while the test runs. No handler is at fault.
const HOST: [&str; 4] =
    ["EventLoopMachineStarved", "EventLoopMachineSlow", "EventLoopPreempted", "EventLoopPaused"];

const TIMEOUT: Duration = Duration::from_secs(300);

#[test]
#[ignore = "needs Prometheus and Alertmanager: ./x e2e"]
fn alerts_fire_for_stalling_services_only() {
    let stack = Stack::start();
    let (prometheus, alertmanager) = (stack.prometheus(), stack.alertmanager());
    eventually("all demos are scraped", || {
        prometheus.instant("sum(up)").first().is_some_and(|up| api::value(up) == 3.0)
    });

    println!("waiting for the alerts, which takes about a minute and a half");
    let mut seen = BTreeSet::new();
    let began = Instant::now();
    eventually("every expected alert fires", || {
        for alert in alertmanager.alerts() {
            if seen.insert((alert.name.clone(), alert.job.clone(), alert.route.clone())) {
                println!(
                    "{:3} s  {} {} {}",
                    began.elapsed().as_secs(),
                    alert.name,
                    alert.job,
                    alert.route
                );
            }
        }
        expected().iter().all(|alert| seen.contains(alert))
    });

    assert_alert_texts(&alertmanager);
    assert_no_false_alerts(&seen);
    assert_queries_return_data(&prometheus);
    assert_first_screen_names_stalling_routes(&prometheus);
    assert_number_of_recorded_series(&prometheus);
    assert_reports_have_lines(&prometheus);
}

/// Returns the name, the job and, if it has one, the route of each expected alert.
fn expected() -> BTreeSet<(String, String, String)> {
    let alert =
        |name: &str, job: &str, route: &str| (name.to_owned(), job.to_owned(), route.to_owned());
    let mut expected: BTreeSet<_> =
        BLOCKING.map(|route| alert("EventLoopTimeStolenSlowBurn", "demo-blocking", route)).into();
    expected.insert(alert("EventLoopTimeStolenFastBurn", "demo-blocking", ""));
    expected.insert(alert("EventLoopWorkerWedged", "demo-deadlocked", DEADLOCK));
    expected
}

/// Asserts that the routes and links are in the alerts as Alertmanager has them.
fn assert_alert_texts(alertmanager: &Alertmanager) {
    let alerts = alertmanager.alerts();
    let found = |name: &str| {
        alerts
            .iter()
            .find(|alert| alert.name == name)
            .unwrap_or_else(|| panic!("{name} is not active: {alerts:#?}"))
    };
    let fast = &found("EventLoopTimeStolenFastBurn").description;
    assert!(BLOCKING.iter().any(|route| fast.contains(&format!("GET {route} ("))), "{fast}");
    let wedged = found("EventLoopWorkerWedged");
    assert!(wedged.description.starts_with(&format!("GET {DEADLOCK} on 127.0.0.1:")), "{wedged:?}");
    for Alert { name, runbook_url, dashboard_url, .. } in &alerts {
        assert!(
            runbook_url.ends_with(&format!("docs/runbook.md#{}", name.to_lowercase())),
            "{name}: {runbook_url}"
        );
        assert!(
            dashboard_url.contains("/d/event-loop-") && dashboard_url.contains("var-job=demo-"),
            "{name}: {dashboard_url}"
        );
    }
}

fn assert_no_false_alerts(seen: &BTreeSet<(String, String, String)>) {
    for (name, job, route) in seen {
        let is_of_host = HOST.contains(&name.as_str());
        assert!(job != "demo-healthy" || is_of_host, "{name} for the healthy service");
        let is_expected = route.is_empty()
            || BLOCKING
                .iter()
                .chain(&COMPUTING)
                .chain([&DEADLOCK])
                .any(|expected| expected == route);
        assert!(is_expected, "{name} names {route}");
    }
}

fn assert_queries_return_data(prometheus: &Prometheus) {
    let mut queried = 0;
    for name in DASHBOARDS {
        for (place, expr) in queries(&dashboard(name)) {
            let has_data = prometheus.range(&with_job(&expr, ".+")).iter().any(api::has_number);
            let is_empty =
                EMPTY.iter().any(|(dashboard, query, _)| *dashboard == name && *query == place);
            assert!(has_data || is_empty, "{name}.json, {place}: no data\n{expr}");
            assert!(!has_data || !is_empty, "{name}.json, {place} has data: remove it from EMPTY");
            // Queries must not fail for a service without stalls either.
            prometheus.range(&with_job(&expr, "demo-healthy"));
            queried += 1;
        }
    }
    println!("{queried} queries of {} dashboards succeeded", DASHBOARDS.len());
}

/// Returns a query as Grafana would send it, with the given job and all other variables at All.
fn with_job(expr: &str, job: &str) -> String {
    let all = ["instance", "method", "route", "runtime"]
        .iter()
        .fold(expr.to_owned(), |expr, name| expr.replace(&format!("\"${name}\""), "\".+\""));
    all.replace("\"$job\"", &format!("\"{job}\""))
        .replace("$__rate_interval", "20s")
        .replace("$__range_s", "60")
        .replace("$__range", "60s")
}

fn assert_first_screen_names_stalling_routes(prometheus: &Prometheus) {
    let overview = dashboard("overview");
    // A grid unit of Grafana is 38 pixels high, so 22 units fit a screen of 1080 lines.
    let first_screen = |panel: &&Value| {
        panel["gridPos"]["y"].as_u64().unwrap() + panel["gridPos"]["h"].as_u64().unwrap() <= 22
    };
    let panels: Vec<_> = list(&overview, "/panels").iter().filter(first_screen).collect();
    // The second panel does not include stalls caused by the host.
    for (title, expected) in [
        ("Stalls by route and cause", &[&BLOCKING[..], &COMPUTING, &[DEADLOCK]].concat()),
        ("Stall timeline", &[&BLOCKING[..], &[DEADLOCK]].concat()),
    ] {
        let panel = panels.iter().find(|panel| text(panel, "/title") == title).unwrap();
        let expr = with_job(text(panel, "/targets/0/expr"), ".+");
        let series = if text(panel, "/targets/0/format") == "table" {
            prometheus.instant(&expr)
        } else {
            prometheus.range(&expr)
        };
        let shown: BTreeSet<_> =
            series.iter().map(|series| text(series, "/metric/route")).collect();
        for route in expected {
            assert!(shown.contains(route), "{title}: {route} is not in {shown:?}");
        }
    }
}

/// Asserts the numbers of series that docs/alerting.md states.
fn assert_number_of_recorded_series(prometheus: &Prometheus) {
    let count = |series: &str| {
        prometheus.instant(&format!("count({series})")).first().map_or(0.0, api::value)
    };
    assert_eq!(count(r#"{__name__=~"job_instance.*:.+:.+"}"#), 5.0 * 3.0);
    assert_eq!(count(r#"{__name__=~"job:.+:.+"}"#), 2.0 * 3.0);
    let routes = count("count by (job, method, route) (tower_stall_in_progress_seconds)");
    assert_eq!(count("job_method_route:tower_stall_stolen:ratio_rate5m"), routes);
    let waiting_routes =
        count("count by (job, method, route) (tower_stall_schedule_delay_seconds_count)");
    assert_eq!(
        count("job_method_route_le:tower_stall_schedule_delay_seconds_bucket:rate5m"),
        14.0 * waiting_routes
    );
}

/// Follows the link in a row of the dashboard, and asserts that the reports there name the lines of
/// code.
fn assert_reports_have_lines(prometheus: &Prometheus) {
    let route = read(here().join("route.json"));
    let link = route.split('"').find(|word| word.ends_with("/stalls")).unwrap();
    let follow = |job: &str| {
        let up = prometheus.instant(&format!("up{{job=\"{job}\"}}"));
        api::page(&link.replace("${__data.fields.Instance}", text(&up[0], "/metric/instance")))
    };
    let reports = follow("demo-blocking") + &follow("demo-deadlocked");
    for route in BLOCKING.iter().chain([&DEADLOCK]) {
        let of_route = |report: &&str| report.starts_with(&format!("GET {route} "));
        let has_line = |report: &str| {
            report.lines().any(|line| line.starts_with("  at: ") && line.contains("examples/demo/"))
        };
        // Other platforms do not capture stacks.
        if cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
            assert!(
                reports.split("\n\n").filter(of_route).any(has_line),
                "no report of {route} has its line:\n{reports}"
            );
        }
    }
}

#[track_caller]
fn eventually(condition: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < TIMEOUT, "timed out waiting until {condition}");
        std::thread::sleep(Duration::from_millis(250));
    }
}
