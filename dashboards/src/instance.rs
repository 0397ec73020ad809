//! One process: its workers, its lag, and the state of the watchdog itself.

use crate::dashboard::Dashboard;
use crate::host_delay;
use crate::links::{TO_ROUTE, TO_STALLS};
use crate::longest_stall;
use crate::panel::{GREEN, ORANGE, Panel, RED};
use crate::promql::{quantile, rate};
use crate::stall_split;
use crate::stall_tables;
use crate::variable::{INSTANCE, JOB, RUNTIME};

pub(crate) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "event-loop-instance",
        title: "Event loop / Instance",
        description: "One process: what its workers do, how late it runs ready tasks and timers, \
            which routes stall it, and whether the watchdog that measures all this works.",
        file: "instance",
        variables: &[JOB, INSTANCE, RUNTIME],
        rows: vec![
            stats(),
            vec![utilization(), stalled_workers()],
            vec![stall_tables::by_route().size(14, 8), in_progress()],
            vec![lag(), blocking_pool()],
            vec![causes(), stall_split::panel("$instance").size(6, 8), rescues(), tasks()],
            vec![watchdog_delay(), scans(), captures(), dropped()],
        ],
    }
}

fn stats() -> Vec<Panel> {
    vec![
        Panel::peak(
            "Stalled workers",
            "Workers inside a stall, at the worst scrape of the selected time range.",
        )
        .query("stalled", "sum(tower_stall_workers_stalled{$runtime})")
        .no_value("no instance")
        .base_color(GREEN)
        .threshold(1.0, ORANGE),
        Panel::stat("lastNotNull", "Workers", "Worker threads of the selected runtimes.")
            .query("workers", "sum(tower_stall_workers{$runtime})")
            .no_value("no instance")
            .base_color("blue"),
        longest_stall::panel(longest_stall::AGE, "$instance").no_value("no requests"),
        Panel::peak(
            "Lag (p99)",
            "How late the runtime ran ready tasks and timers, at the worst moment.",
        )
        .query(
            "lag",
            &format!(
                "max({})",
                quantile(
                    "0.99",
                    "job, instance, runtime, probe",
                    "tower_stall_lag_seconds",
                    "{$runtime}"
                ),
            ),
        )
        .unit("s")
        .no_value("no instance")
        .base_color(GREEN)
        .threshold(0.1, ORANGE)
        .threshold(0.5, RED),
        host_delay::panel(),
        Panel::name(
            "Version",
            "The version of tower-stall that is linked in. Several, if the instances differ.",
        )
        .query("{{version}}", "count by (version) (tower_stall_build_info{$instance})")
        .no_value("no instance")
        .base_color("blue"),
    ]
}

fn utilization() -> Panel {
    Panel::lines(
        "Worker utilization",
        "Share of the last interval in which each worker was not parked. If one worker stays at \
        100 % while the others are idle, a single task stalls it.",
    )
    .query(
        "{{runtime}} {{worker}}",
        "max by (runtime, worker) (tower_stall_worker_busy_ratio{$runtime})",
    )
    .unit("percentunit")
    .max(1.0)
    .no_value("No instance")
}

fn stalled_workers() -> Panel {
    Panel::lines(
        "Stalled workers",
        "Workers inside a stall, and all workers. When the two lines meet, the runtime makes no \
        progress. Sampled once per scrape, so shorter stalls may be missing.",
    )
    .query("{{runtime}} stalled", "sum by (runtime) (tower_stall_workers_stalled{$runtime})")
    .query("{{runtime}} workers", "sum by (runtime) (tower_stall_workers{$runtime})")
    .no_value("No instance")
}

fn in_progress() -> Panel {
    Panel::lines(
        "Stalls in progress",
        "Age of the oldest stall in progress, by route. A line that climbs and never falls is a \
        deadlock.",
    )
    .size(10, 8)
    .query(
        "{{method}} {{route}}",
        "topk(10, max by (method, route) (tower_stall_in_progress_seconds{$instance}) > 0)",
    )
    .unit("s")
    .no_value("None at any scrape")
    .link("Open this route", TO_ROUTE)
}

fn lag() -> Panel {
    let lag = |q| quantile(q, "runtime, probe", "tower_stall_lag_seconds", "{$runtime}");
    Panel::log_lines(
        "Lag",
        "Timer: from a timer's deadline to its wake, at least 1 ms. Queue: from a wake to its \
        poll. If only the timers are late, the worker that drives timers and I/O is stalled; if \
        both are late, all workers are.",
    )
    .query("{{runtime}} {{probe}} p50", &lag("0.5"))
    .query("{{runtime}} {{probe}} p99", &lag("0.99"))
    .query("{{runtime}} {{probe}} max", &lag("1"))
    .unit("s")
    .no_value("No instance")
    .threshold(0.1, ORANGE)
    .threshold(0.5, RED)
    .base_color("transparent")
}

fn blocking_pool() -> Panel {
    let delay = |q| quantile(q, "runtime", "tower_stall_blocking_pool_delay_seconds", "{$runtime}");
    Panel::log_lines(
        "Blocking pool delay",
        "How long work passed to spawn_blocking waits for a thread, probed every 5 s. A gap while \
        the lag is still reported means that the pool stays full.",
    )
    .query("{{runtime}} p50", &delay("0.5"))
    .query("{{runtime}} max", &delay("1"))
    .unit("s")
    .no_value("No instance")
    .threshold(0.1, ORANGE)
    .base_color("transparent")
}

fn causes() -> Panel {
    Panel::stacked(
        "Stall time by cause",
        "Worker seconds spent in stalls per second. cpu and blocked: caused by the code. preempted \
        and paused: caused by the host. unknown: the stall ended before the watchdog saw it.",
    )
    .size(6, 8)
    .query("{{cause}}", &rate("cause", "tower_stall_duration_seconds_sum{$instance}"))
    .unit("none")
    .soft_max(0.1)
    .no_value("No stall has ended")
    .cause_colors()
}

fn rescues() -> Panel {
    Panel::bars(
        "Rescues",
        "Stalls that starved the I/O driver until the watchdog woke another worker. Without the \
        rescue, no timer or socket would have made progress until the stall ended.",
    )
    .size(6, 8)
    .query("{{runtime}}", &rate("runtime", "tower_stall_rescues_total{$runtime}"))
    .unit("eps")
    .soft_max(1.0)
    .no_value("No instance")
}

fn tasks() -> Panel {
    Panel::lines(
        "Tasks",
        "Alive tasks of the runtime, and tasks in its global queue. A number of tasks that only \
        grows is a leak.",
    )
    .size(6, 8)
    .query("{{runtime}} alive", "sum by (runtime) (tower_stall_alive_tasks{$runtime})")
    .query("{{runtime}} queued", "sum by (runtime) (tower_stall_global_queue_depth{$runtime})")
    .no_value("No instance")
}

fn watchdog_delay() -> Panel {
    let delay = |q| quantile(q, "", "tower_stall_watchdog_late_seconds", "{$instance}");
    Panel::log_lines(
        "Watchdog wake-up delay",
        "How late the watchdog thread is woken, which only the host influences. High values point \
        to a CPU quota, busy neighbors or a suspended host; stalls at that time are not the \
        code's.",
    )
    .size(6, 8)
    .query("p50", &delay("0.5"))
    .query("p99", &delay("0.99"))
    .query("max", &delay("1"))
    .unit("s")
    .no_value("No instance")
    .threshold(0.05, ORANGE)
    .threshold(0.25, RED)
    .base_color("transparent")
}

fn scans() -> Panel {
    let scans = rate("instance", "tower_stall_watchdog_ticks_total{$instance}");
    Panel::lines(
        "Watchdog scans",
        "Scans per second: at least one, and 200 or more under traffic. At 0 the watchdog has \
        stopped, and no stall is detected.",
    )
    .size(6, 8)
    .query("{{instance}}", &format!("topk(10, {scans})"))
    .unit("eps")
    .link("Reports with lines of code", TO_STALLS)
    .no_value("No instance")
}

fn captures() -> Panel {
    Panel::bars(
        "Stack captures by result",
        "Attempts to capture the stack of a stalled thread. running: this needs stack_signals, \
        which are off. torn, timeout: the thread continued to run meanwhile; a few are normal. \
        unsupported: not available on this system.",
    )
    .size(6, 8)
    .query("{{result}}", &rate("result", "tower_stall_stack_captures_total{$instance}"))
    .unit("eps")
    .soft_max(1.0)
    .no_value("No instance")
}

fn dropped() -> Panel {
    Panel::bars(
        "Dropped and suppressed",
        "Reports and requests that were dropped, suppressed or merged, and contained panics, per \
        second. All counts are still complete. Suppressed reports are normal while a service \
        stalls; the others should be 0.",
    )
    .size(6, 8)
    .query("reports suppressed", &rate("", "tower_stall_reports_suppressed_total{$instance}"))
    .query("events dropped", &rate("", "tower_stall_events_dropped_total{$instance}"))
    .query(
        "requests counted as overflow",
        &rate("", "tower_stall_routes_overflowed_total{$instance}"),
    )
    .query("panics of the hook", &rate("", "tower_stall_hook_panics_total{$instance}"))
    .unit("eps")
    .soft_max(1.0)
    .no_value("No instance")
}
