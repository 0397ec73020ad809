//! What is due for each kind of work, whatever the build and the state.

use serde_json::Value;

use crate::cell::Cell;
use crate::scrape::Scrape;

/// The shortest time that counts: the work blocks for 600 ms, but an unmeasured stall may begin with
/// the watchdog's first sample, up to 65 ms late in an idle process, and later on a busy machine.
const SHORTEST: f64 = 0.35;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    /// So many stalls of this route and cause.
    Stalls { method: &'static str, route: &'static str, cause: &'static str, count: usize },
    /// No stall, and one poll of this route that has handed off its worker.
    HandedOff { route: &'static str },
    /// No stall, and no poll that has ended.
    Nothing,
    /// One report without a worker, of a poll that counts apart.
    OffWorker { route: &'static str },
}

const UNATTRIBUTED: Expected = stall("TASK", "unattributed", "blocked");

pub(crate) const WORKS: [(&str, Expected); 12] = [
    ("handler", stall("GET", "/sleeping", "blocked")),
    ("computing-handler", stall("GET", "/computing", "cpu")),
    ("task", UNATTRIBUTED),
    ("computing-task", stall("TASK", "unattributed", "cpu")),
    ("drop-of-cancelled", UNATTRIBUTED),
    ("outer-middleware", UNATTRIBUTED),
    ("in-place", Expected::HandedOff { route: "/in-place" }),
    ("in-place-computing", Expected::HandedOff { route: "/in-place-computing" }),
    ("in-place-endless", Expected::Nothing),
    (
        "in-place-without-thread",
        Expected::Stalls { method: "GET", route: "/in-place-endless", cause: "blocked", count: 2 },
    ),
    ("pool-thread", Expected::Nothing),
    ("measured-pool-thread", Expected::OffWorker { route: "on-pool-thread" }),
];

const fn stall(method: &'static str, route: &'static str, cause: &'static str) -> Expected {
    Expected::Stalls { method, route, cause, count: 1 }
}

/// Returns what is wrong with the output of a cell's program.
pub(crate) fn faults(cell: &Cell, output: &Value) -> Vec<String> {
    let mut faults = Faults { cell, output, texts: Vec::new() };
    faults.check_reports();
    faults.check_lines();
    faults.check_metrics();
    faults.check_observed();
    faults.texts
}

struct Faults<'a> {
    cell: &'a Cell,
    output: &'a Value,
    texts: Vec<String>,
}

impl<'a> Faults<'a> {
    fn expect(&mut self, is_right: bool, fault: impl FnOnce() -> String) {
        if !is_right {
            self.texts.push(fault());
        }
    }

    /// Returns the reports of stalls that have ended, without the short ones of a busy machine.
    fn ended(&self) -> Vec<&'a Value> {
        let reports = self.output["stalls"].as_array().unwrap().iter();
        let is_meant = |report: &&Value| {
            let own = seconds(report, "cpu_seconds") + seconds(report, "off_cpu_seconds");
            report["in_progress"] == false && own >= SHORTEST / 2.0
        };
        reports.filter(is_meant).collect()
    }

    fn check_reports(&mut self) {
        let reports = self.ended();
        let (method, route, cause, count) = match self.cell.expected {
            Expected::Stalls { method, route, cause, count } => (method, route, cause, count),
            Expected::OffWorker { route } => ("TASK", route, "blocked", 1),
            Expected::HandedOff { .. } | Expected::Nothing => ("", "", "", 0),
        };
        self.expect(reports.len() == count, || {
            format!("{} reports instead of {count}: {reports:#?}", reports.len())
        });
        let elapsed = seconds(self.output, "elapsed_seconds");
        for report in reports {
            let found = [&report["method"], &report["route"], &report["cause"]];
            self.expect(found == [method, route, cause], || format!("{found:?}"));
            let duration = seconds(report, "duration_seconds");
            self.expect(duration >= SHORTEST && duration <= elapsed + 0.1, || {
                format!("{duration} s instead of {elapsed}")
            });
            let is_off_worker = matches!(self.cell.expected, Expected::OffWorker { .. });
            self.expect(report["worker"].is_null() == is_off_worker, || {
                format!("worker {}", report["worker"])
            });
        }
    }

    /// Checks that each report has the right line, or the right reason that there is none.
    fn check_lines(&mut self) {
        const RUNNING: &str = "no stack: the thread was running;";
        let line = &self.output["blocked_at"];
        for report in self.ended() {
            let missing = report["missing"].as_str();
            let due =
                if report["cause"] == "cpu" { Some(RUNNING) } else { self.cell.build.missing };
            let is_right = match due {
                Some(due) => {
                    report["location"].is_null()
                        && missing.is_some_and(|text| text.starts_with(due))
                }
                None => {
                    let location = &report["location"];
                    let file = location["file"].as_str();
                    missing.is_none()
                        && location["line"] == *line
                        && file.is_some_and(|file| file.ends_with("program/block.rs"))
                }
            };
            self.expect(is_right, || {
                format!("at {} instead of {line}, missing {missing:?}", report["location"])
            });
        }
    }

    /// Checks that counts, sums and gauges agree with each other and with the reports.
    fn check_metrics(&mut self) {
        let scrape = Scrape(self.output["metrics"].as_str().unwrap().to_owned());
        let sum = |name: &str, labels: &[(&str, &str)]| {
            scrape.sum(&format!("tower_stall_{name}"), labels)
        };
        let (mut handed_off, mut off_worker) = ("", "");
        match self.cell.expected {
            Expected::Stalls { method, route, cause, .. } => {
                let reports = self.ended();
                let total: f64 = reports.iter().map(|it| seconds(it, "duration_seconds")).sum();
                let labels = [("method", method), ("route", route), ("cause", cause)];
                let (of_route, count) = (&labels[..2], sum("duration_seconds_count", &labels));
                let (counted, split) =
                    (sum("duration_seconds_sum", of_route), sum("stalled_seconds_total", of_route));
                // Short ones of a busy machine count as well.
                self.expect(count >= reports.len() as f64, || format!("{count} are counted"));
                self.expect(counted >= total * 0.999, || format!("{counted} s of {total} counted"));
                self.expect((split - counted).abs() <= counted * 0.001, || {
                    format!("{split} s of {counted} are split")
                });
            }
            Expected::HandedOff { route } => handed_off = route,
            Expected::OffWorker { route } => off_worker = route,
            Expected::Nothing => {}
        }
        for (name, route) in
            [("handed_off_polls_total", handed_off), ("off_worker_polls_total", off_worker)]
        {
            let (polls, due) = (sum(name, &[("route", route)]), u8::from(!route.is_empty()));
            self.expect(polls == f64::from(due), || format!("{polls} {name} of {route:?}"));
        }
        for gauge in ["in_progress_seconds", "workers_stalled"] {
            let value = sum(gauge, &[]);
            self.expect(value == 0.0, || format!("{gauge} is {value} at the end"));
        }
        let lost = sum("events_dropped_total", &[]) + sum("reports_suppressed_total", &[]);
        self.expect(lost == 0.0, || format!("{lost} reports are lost"));
    }

    /// Checks what was visible while the work blocked.
    fn check_observed(&mut self) {
        let observed = &self.output["during"];
        let Some(stalls) = observed["in_progress"].as_array() else { return };
        let scrape = Scrape(observed["metrics"].as_str().unwrap().to_owned());
        let count = match self.cell.expected {
            Expected::Stalls { count, .. } => count,
            _ => 0,
        };
        let long = stalls.iter().filter(|stall| seconds(stall, "duration_seconds") > 2.0);
        self.expect(long.count() == count, || format!("in progress: {stalls:#?}"));
        let stalled = scrape.sum("tower_stall_workers_stalled", &[]);
        self.expect(stalled == count as f64, || format!("{stalled} workers are stalled"));
        let age = scrape.sum("tower_stall_in_progress_seconds", &[("route", "/in-place-endless")]);
        self.expect((age > 2.0) == (count > 0), || format!("{age} s in progress"));
        let oldest =
            scrape.sum("tower_stall_oldest_request_seconds", &[("route", "/in-place-endless")]);
        // An idle watchdog updates the gauge once a second.
        self.expect(oldest > 1.0, || format!("the oldest request waits for {oldest} s"));
    }
}

fn seconds(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap()
}
