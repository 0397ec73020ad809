//! The share of time that the host took from a process.

use crate::panel::{GREEN, ORANGE, Panel, RED};
use crate::promql::rate;

/// Widths of the histogram's buckets from 50 ms on, with their lower bounds. The widths add up to
/// ten seconds.
const BUCKETS: [(&str, &str, &str); 7] = [
    ("0.05", "=", "0.05"),
    ("0.05", "=", "0.1"),
    ("0.15", "=", "0.25"),
    ("0.25", "=", "0.5"),
    // Prometheus 3 stores `le="1"` as `le="1.0"`.
    ("0.5", "=~", r"1(\\.0)?"),
    ("1.5", "=", "2.5"),
    ("7.5", "=~", r"10(\\.0)?"),
];

/// The same expression as the recording rule `job_instance:tower_stall_late_50ms:ratio_rate5m`,
/// which the alerts use.
pub(crate) fn panel() -> Panel {
    let delays = rate("job, instance", "tower_stall_watchdog_late_seconds_count{$instance}");
    let shorter = BUCKETS.map(|(width, operator, bound)| {
        let le = format!("le{operator}\"{bound}\"");
        let bucket = format!("tower_stall_watchdog_late_seconds_bucket{{$instance, {le}}}");
        format!("\n  - {width} * {}", rate("job, instance", &bucket))
    });
    Panel::peak(
        "Host delay",
        "Share of time for which the host kept the worst instance off the CPU for 50 ms or more at \
        a stretch, measured by the watchdog's own wake-ups, which no handler can delay. Peak over \
        the selected time range. Above 0.5 % the host explains the lag, and the alerts on lag are \
        silent. Check for a CPU quota, busy neighbors or a suspension first.",
    )
    .query("host delay", &format!("clamp_min(max(\n  10 * {delays}{}\n), 0)", shorter.concat()))
    .unit("percentunit")
    .decimals(1)
    .no_value("no instance")
    .base_color(GREEN)
    .threshold(0.005, ORANGE)
    .threshold(0.05, RED)
}
