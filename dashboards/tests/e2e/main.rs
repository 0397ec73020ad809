//! The end-to-end check: real services, a real Prometheus with the rules, a real Alertmanager.
//!
//! `./x e2e` runs it. It takes `prometheus.yml`, `alertmanager.yml` and the rules as they are shipped, and makes three changes to copies of
//! them: free ports; and everything fifteen times faster, see `lapse.rs`. Thresholds stay.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

mod api;
mod lapse;
mod stack;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{DASHBOARDS, dashboard, here, list, queries, read, text};

use self::api::{Alert, Alertmanager, Prometheus};
use self::stack::Stack;

/// They sleep and wait, so that a busy machine changes nothing.
const BLOCKING: [&str; 3] = ["/legacy/report", "/files/{name}", "/cache/{key}"];
/// On a machine that has no time for them their stalls are the machine's, and rightly no alert names them.
const COMPUTING: [&str; 2] = ["/export", "/events"];
const DEADLOCK: &str = "/accounts/{from}/transfer/{to}";
/// Queries that may have no data, and why.
const EMPTY: [(&str, &str, &str); 1] = [("route", "\"Handed off\" A", "no handler of the demo uses block_in_place")];
/// What a busy machine may be told of while the check runs. It is no handler's fault.
const MACHINE: [&str; 4] = ["EventLoopMachineStarved", "EventLoopMachineSlow", "EventLoopPreempted", "EventLoopPaused"];

const PATIENCE: Duration = Duration::from_secs(300);

#[test]
#[ignore = "needs Prometheus and Alertmanager: ./x e2e"]
fn the_sick_are_told_of_and_the_healthy_are_not() {
    let stack = Stack::start();
    let (prometheus, alertmanager) = (stack.prometheus(), stack.alertmanager());
    eventually("all demos are scraped", || {
        prometheus.instant("sum(up)").first().is_some_and(|up| api::value(up) == 3.0)
    });

    println!("waiting for the alerts, a minute and a half or so");
    let mut seen = BTreeSet::new();
    let began = Instant::now();
    eventually("each sickness has its alert", || {
        for alert in alertmanager.alerts() {
            if seen.insert((alert.name.clone(), alert.job.clone(), alert.route.clone())) {
                println!("{:3} s  {} {} {}", began.elapsed().as_secs(), alert.name, alert.job, alert.route);
            }
        }
        expected().iter().all(|alert| seen.contains(alert))
    });

    the_alerts_name_the_sick(&alertmanager);
    the_healthy_have_none(&seen);
    each_query_answers(&prometheus);
    the_first_screen_names_each_sick_route(&prometheus);
    what_is_recorded_is_as_much_as_the_docs_say(&prometheus);
    the_report_has_the_line_of_each(&prometheus);
}

/// Name, job, and route if the alert has one.
fn expected() -> BTreeSet<(String, String, String)> {
    let alert = |name: &str, job: &str, route: &str| (name.to_owned(), job.to_owned(), route.to_owned());
    let mut expected: BTreeSet<_> =
        BLOCKING.map(|route| alert("EventLoopTimeStolenSlowBurn", "demo-sick", route)).into();
    expected.insert(alert("EventLoopTimeStolenFastBurn", "demo-sick", ""));
    expected.insert(alert("EventLoopWorkerWedged", "demo-deadlocked", DEADLOCK));
    expected
}

/// Names and links reach whoever is called.
fn the_alerts_name_the_sick(alertmanager: &Alertmanager) {
    let alerts = alertmanager.alerts();
    let found = |name: &str| {
        alerts.iter().find(|alert| alert.name == name).unwrap_or_else(|| panic!("{name} is gone: {alerts:#?}"))
    };
    let fast = &found("EventLoopTimeStolenFastBurn").description;
    assert!(BLOCKING.iter().any(|route| fast.contains(&format!("GET {route} with "))), "{fast}");
    let wedged = found("EventLoopWorkerWedged");
    assert!(wedged.description.starts_with(&format!("GET {DEADLOCK} on 127.0.0.1:")), "{wedged:?}");
    for Alert { name, runbook_url, dashboard_url, .. } in &alerts {
        assert!(runbook_url.ends_with(&format!("docs/runbook.md#{}", name.to_lowercase())), "{name}: {runbook_url}");
        assert!(
            dashboard_url.contains("/d/event-loop-") && dashboard_url.contains("var-job=demo-"),
            "{name}: {dashboard_url}"
        );
    }
}

fn the_healthy_have_none(seen: &BTreeSet<(String, String, String)>) {
    for (name, job, route) in seen {
        let of_the_machine = MACHINE.contains(&name.as_str());
        assert!(job != "demo-healthy" || of_the_machine, "{name} of the healthy service");
        let blamed = route.is_empty() || BLOCKING.iter().chain(&COMPUTING).chain([&DEADLOCK]).any(|sick| sick == route);
        assert!(blamed, "{name} blames {route}");
    }
}

fn each_query_answers(prometheus: &Prometheus) {
    let mut asked = 0;
    for name in DASHBOARDS {
        for (place, expr) in queries(&dashboard(name)) {
            let answers = prometheus.range(&chosen(&expr, ".+")).iter().any(api::has_number);
            let may_be_empty = EMPTY.iter().any(|(dashboard, of, _)| *dashboard == name && *of == place);
            assert!(answers || may_be_empty, "{name}.json, {place}: no data\n{expr}");
            assert!(
                !answers || !may_be_empty,
                "{name}.json, {place} has data, so it is no longer in the list of the empty"
            );
            // On a healthy service nothing is an error either.
            prometheus.range(&chosen(&expr, "demo-healthy"));
            asked += 1;
        }
    }
    println!("{asked} queries of {} dashboards answered", DASHBOARDS.len());
}

/// A query as Grafana would send it, with every choice at All but that of the job.
fn chosen(expr: &str, job: &str) -> String {
    let all = ["instance", "method", "route", "runtime"]
        .iter()
        .fold(expr.to_owned(), |expr, name| expr.replace(&format!("\"${name}\""), "\".+\""));
    all.replace("\"$job\"", &format!("\"{job}\""))
        .replace("$__rate_interval", "20s")
        .replace("$__range_s", "60")
        .replace("$__range", "60s")
}

fn the_first_screen_names_each_sick_route(prometheus: &Prometheus) {
    let overview = dashboard("overview");
    // Grafana's rows are 38 pixels high: these fit a screen of 1080 lines.
    let first_screen =
        |panel: &&Value| panel["gridPos"]["y"].as_u64().unwrap() + panel["gridPos"]["h"].as_u64().unwrap() <= 22;
    let panels: Vec<_> = list(&overview, "/panels").iter().filter(first_screen).collect();
    // The second leaves the machine's part out.
    for (title, sick) in [
        ("Who holds the workers", &[&BLOCKING[..], &COMPUTING, &[DEADLOCK]].concat()),
        ("Stalled when", &[&BLOCKING[..], &[DEADLOCK]].concat()),
    ] {
        let panel = panels.iter().find(|panel| text(panel, "/title") == title).unwrap();
        let expr = chosen(text(panel, "/targets/0/expr"), ".+");
        let answer = if text(panel, "/targets/0/format") == "table" {
            prometheus.instant(&expr)
        } else {
            prometheus.range(&expr)
        };
        let shown: BTreeSet<_> = answer.iter().map(|series| text(series, "/metric/route")).collect();
        for route in sick {
            assert!(shown.contains(route), "{title}: {route} is not among {shown:?}");
        }
    }
}

/// As docs/alerting.md counts them: for each instance five, for each route so many.
fn what_is_recorded_is_as_much_as_the_docs_say(prometheus: &Prometheus) {
    let count = |series: &str| prometheus.instant(&format!("count({series})")).first().map_or(0.0, api::value);
    assert_eq!(count(r#"{__name__=~"job_instance.*:.+:.+"}"#), 5.0 * 3.0);
    assert_eq!(count(r#"{__name__=~"job:.+:.+"}"#), 3.0);
    let routes = count("count by (job, method, route) (tower_stall_in_progress_seconds)");
    assert_eq!(count("job_method_route:tower_stall_stolen:ratio_rate5m"), routes);
    let waiting = count("count by (job, method, route) (tower_stall_schedule_delay_seconds_count)");
    assert_eq!(count("job_method_route_le:tower_stall_schedule_delay_seconds_bucket:rate5m"), 14.0 * waiting);
}

/// The end of the way: from a row of the dashboard by its link to the report, and in it the line of code.
fn the_report_has_the_line_of_each(prometheus: &Prometheus) {
    let route = read(here().join("route.json"));
    let link = route.split('"').find(|word| word.ends_with("/stalls")).unwrap();
    let follow = |job: &str| {
        let up = prometheus.instant(&format!("up{{job=\"{job}\"}}"));
        api::page(&link.replace("${__data.fields.Instance}", text(&up[0], "/metric/instance")))
    };
    let reports = follow("demo-sick") + &follow("demo-deadlocked");
    for route in BLOCKING.iter().chain([&DEADLOCK]) {
        let of_route = |report: &&str| report.starts_with(&format!("GET {route} "));
        let has_line =
            |report: &str| report.lines().any(|line| line.starts_with("  at: ") && line.contains("examples/demo/"));
        // Elsewhere no line is known.
        if cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
            assert!(
                reports.split("\n\n").filter(of_route).any(has_line),
                "no report of {route} has its line:\n{reports}"
            );
        }
    }
}

#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "it never came to be that {what}");
        std::thread::sleep(Duration::from_millis(250));
    }
}
