//! The watchdog: its cost without stalls, and how soon it detects them.

pub mod detection;
pub mod overhead;

use crate::Result;
use crate::child;
use crate::report::{self, Table};

pub fn part() -> Result<()> {
    let mut overhead = Table::new(&[
        "requests per second",
        "wake-ups per second",
        "CPU of the three threads, ms/s",
    ]);
    for rate in [0, 1, 1_000, 50_000] {
        overhead.row(&child::row("overhead", rate)?);
    }
    let mut attribution = Table::new(&[
        "blocking sleep, over the threshold of 25 ms by",
        "stalls",
        "cause reported",
        "line reported",
    ]);
    for excess_ms in [1, 2, 5, 10] {
        attribution.row(&child::row("attribution", excess_ms)?);
    }
    let mut latency =
        Table::new(&["detection latency of a stall in progress", "p50", "p90", "p99", "max"]);
    for stalls in [1, 300] {
        latency.row(&child::row("gauge-latency", stalls)?);
    }
    latency.row(&child::row("report-latency", 30)?);
    report::write("watchdog", &format!("{overhead}\n{attribution}\n{latency}"))
}
