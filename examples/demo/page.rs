//! All that is shown at one moment.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tower_stall::{Stall, StallMonitor};

use crate::options::Options;
use crate::table::{self, Millis};
use crate::traffic::Traffic;

/// One page fits a terminal of 24 lines.
const RECENT: usize = 2;
const REPORT_LINES: usize = 5;

pub(crate) struct Page {
    monitor: StallMonitor,
    service: SocketAddr,
    metrics: SocketAddr,
    traffic: Option<Traffic>,
    setup: String,
    colors: bool,
    started: Instant,
}

impl Page {
    pub(crate) fn new(
        monitor: StallMonitor,
        options: &Options,
        service: SocketAddr,
        metrics: SocketAddr,
        traffic: Option<Traffic>,
        colors: bool,
    ) -> Self {
        let setup = setup(options);
        Self { monitor, service, metrics, traffic, setup, colors, started: Instant::now() }
    }

    /// Before there is anything to tell.
    pub(crate) fn opening(&self) -> String {
        format!("{}\nThe table comes with the first requests. Ctrl-C ends the demo.\n", self.addresses())
    }

    pub(crate) fn live(&self) -> String {
        format!("{}\n{}\n{}", self.heading(), self.table(), self.stalls())
    }

    /// What stays on the screen.
    pub(crate) fn last(&self) -> String {
        format!("{}\n{}", self.heading(), self.table())
    }

    /// Where the stalls took their time, as flame-graph tools read it.
    pub(crate) fn stacks(&self) -> String {
        self.monitor.collapsed_stacks()
    }

    fn heading(&self) -> String {
        let seconds = self.started.elapsed().as_secs();
        let requests = self.traffic.as_ref().map_or_else(|| "no traffic of our own".to_owned(), ToString::to_string);
        format!("{}{}, {seconds} s: {requests}\n", self.addresses(), self.setup)
    }

    fn addresses(&self) -> String {
        format!("service http://{}/health  metrics http://{}/metrics\n", self.service, self.metrics)
    }

    fn table(&self) -> String {
        table::render(&self.monitor.routes(), self.colors)
    }

    fn stalls(&self) -> String {
        let stalls = self.monitor.recent_stalls();
        let mut text = String::from("Last stalls\n");
        for stall in stalls.iter().rev().take(RECENT) {
            let _ = writeln!(text, "  {}", one_line(stall));
        }
        if let Some(stall) = stalls.iter().rev().find(|stall| !stall.is_in_progress()) {
            let report = stall.to_string();
            let _ = writeln!(text, "\n{}", first_lines(&report));
        }
        text
    }
}

fn setup(options: &Options) -> String {
    let plural = if options.workers == 1 { "" } else { "s" };
    let rescue = if options.rescue { "on" } else { "off" };
    format!("{} worker{plural}, threshold {}, rescue {rescue}", options.workers, Millis(options.threshold))
}

fn one_line(stall: &Stall) -> String {
    let still = if stall.is_in_progress() { ", still going on" } else { "" };
    let place = stall.location().map_or_else(String::new, |location| format!(", at {location}"));
    format!(
        "{} {} for {}{still}: {}, {} more in flight{place}",
        stall.method(),
        stall.route(),
        Millis(round(stall.duration())),
        stall.phase().as_str(),
        stall.held_up(),
    )
}

fn round(duration: Duration) -> Duration {
    Duration::from_millis(duration.as_millis() as u64)
}

fn first_lines(report: &str) -> String {
    let lines: Vec<_> = report.lines().take(REPORT_LINES).map(|line| format!("  {line}")).collect();
    lines.join("\n")
}
