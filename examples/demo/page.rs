//! The text on the screen at one moment.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Instant;

use tower_stall::StallMonitor;

use crate::options::Options;
use crate::table::{self, Millis};
use crate::traffic::Traffic;

// These numbers make a page fit a terminal of 24 lines.
const RECENT_STALLS: usize = 2;
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

    /// Returns the page shown before the first interval has passed.
    pub(crate) fn opening(&self) -> String {
        let addresses = self.addresses();
        format!("{addresses}\nThe table appears with the first requests. Ctrl-C ends the demo.\n")
    }

    pub(crate) fn live(&self) -> String {
        format!("{}\n{}\n{}", self.heading(), self.table(), self.stalls())
    }

    /// Returns the page that stays on the screen after the demo.
    pub(crate) fn last(&self) -> String {
        format!("{}\n{}", self.heading(), self.table())
    }

    /// Returns the sampled stacks in the collapsed format of flame-graph tools.
    pub(crate) fn collapsed_stacks(&self) -> String {
        self.monitor.collapsed_stacks()
    }

    fn heading(&self) -> String {
        let seconds = self.started.elapsed().as_secs();
        let requests = match &self.traffic {
            Some(traffic) => traffic.to_string(),
            None => "no generated traffic".to_owned(),
        };
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
        let mut text = String::from("Recent stalls\n");
        for stall in stalls.iter().rev().take(RECENT_STALLS) {
            let _ = writeln!(text, "  {stall}");
        }
        if let Some(stall) = stalls.iter().rev().find(|stall| !stall.is_in_progress()) {
            let report = format!("{stall:#}");
            let _ = writeln!(text, "\n{}", first_lines(&report));
        }
        text
    }
}

fn setup(options: &Options) -> String {
    let workers = options.workers;
    let plural = if workers == 1 { "" } else { "s" };
    let rescue = if options.rescue { "on" } else { "off" };
    format!("{workers} worker{plural}, threshold {}, rescue {rescue}", Millis(options.threshold))
}

fn first_lines(report: &str) -> String {
    let lines: Vec<_> = report.lines().take(REPORT_LINES).map(|line| format!("  {line}")).collect();
    lines.join("\n")
}
