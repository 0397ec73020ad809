//! Where the time of stalls went.

use crate::panel::{ORANGE, Panel, RED};
use crate::promql::rate;

pub(crate) fn panel(selector: &str) -> Panel {
    let stalled = rate("on", &format!("tower_stall_stalled_seconds_total{{{selector}}}"));
    Panel::stacked(
        "Stall time split",
        "Worker seconds spent in stalls per second, by what the threads were doing. cpu and \
        off_cpu are the code's own time: it computed, or waited in a system call or for a lock. \
        run_queue and stopped were added by the host: other threads or a CPU quota kept the thread \
        off the CPU, or the whole process was stopped. A large run_queue beside a large cpu is \
        typical of a service that uses up its own CPU quota.",
    )
    .query("{{on}}", &stalled)
    .unit("none")
    .soft_max(0.1)
    .no_value("No stall has ended")
    .series_colors(&[
        ("cpu", ORANGE),
        ("off_cpu", RED),
        ("run_queue", "blue"),
        ("stopped", "purple"),
    ])
}
