//! What the machine takes.

use crate::panel::{GREEN, ORANGE, Panel, RED};

/// Widths of the buckets from 50 ms on, and their lower bounds. They add up to ten.
const HICCUPS: [(&str, &str, &str); 7] = [
    ("0.05", "=", "0.05"),
    ("0.05", "=", "0.1"),
    ("0.15", "=", "0.25"),
    ("0.25", "=", "0.5"),
    // Prometheus 3 writes `1.0` for what is scraped as `1`.
    ("0.5", "=~", r"1(\\.0)?"),
    ("1.5", "=", "2.5"),
    ("7.5", "=~", r"10(\\.0)?"),
];

/// The share of time that the worst instance lost. As `job_instance:tower_stall_late_50ms:ratio_rate5m`, of which the alerts speak.
pub(crate) fn lost() -> Panel {
    let all =
        "10 * sum by (job, instance) (rate(tower_stall_watchdog_late_seconds_count{$instance}[$__rate_interval]))";
    let shorter = HICCUPS.map(|(width, is, bound)| {
        let selector = format!("tower_stall_watchdog_late_seconds_bucket{{$instance, le{is}\"{bound}\"}}");
        format!("\n  - {width} * sum by (job, instance) (rate({selector}[$__rate_interval]))")
    });
    Panel::verdict(
        "Time lost to the machine",
        "For which share of time the worst instance was kept off the processor for 50 ms and more, at the worst moment, as the watchdog saw \
        it: no handler can delay that. From half a percent on alerts on lag are silent, as the machine explains it. Look for a CPU quota, \
        busy neighbours or a suspension first.",
    )
    .query("lost", &format!("clamp_min(max(\n  {all}{}\n), 0)", shorter.concat()))
    .unit("percentunit")
    .decimals(1)
    .nothing("no instance")
    .below(GREEN)
    .from(0.005, ORANGE)
    .from(0.05, RED)
}
