//! One process: its workers, its lag, and the watchdog's own health.

use crate::dashboard::Dashboard;
use crate::links::{TO_ROUTE, TO_STALLS};
use crate::machine;
use crate::panel::{GREEN, ORANGE, Panel, RED, YELLOW};
use crate::stolen_table;
use crate::variable::{INSTANCE, JOB, RUNTIME};

pub(crate) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "event-loop-instance",
        title: "Event loop / Instance",
        description: "One process: what its workers do, how late it runs what is ready, which routes hold it, and whether the watchdog \
            that tells all this is well itself.",
        file: "instance",
        variables: &[JOB, INSTANCE, RUNTIME],
        rows: vec![
            verdicts(),
            vec![busy(), stalled()],
            vec![stolen_table::by_route().size(14, 8), in_progress()],
            vec![lag(), blocking_pool()],
            vec![causes(), rescues(), tasks()],
            vec![late(), ticks(), captures(), dropped()],
        ],
    }
}

fn verdicts() -> Vec<Panel> {
    vec![
        Panel::verdict("Workers stalled", "Workers that were inside a stall at one scrape, at the worst of them.")
            .query("stalled", "sum(tower_stall_workers_stalled{$runtime})")
            .nothing("no instance")
            .below(GREEN)
            .from(1.0, ORANGE),
        Panel::stat("lastNotNull", "Workers", "Worker threads of the runtimes chosen.")
            .query("workers", "sum(tower_stall_workers{$runtime})")
            .nothing("no instance")
            .below("blue"),
        Panel::verdict("Longest stall in progress", "The oldest poll that has not returned, at the worst scrape of the time shown.")
            .query("in progress", "max(tower_stall_in_progress_seconds{$instance})")
            .unit("s")
            .nothing("no requests")
            .below(GREEN)
            .from(0.1, YELLOW)
            .from(1.0, ORANGE)
            .from(5.0, RED),
        Panel::verdict("Lag, 99th percentile", "How late the runtime ran what was ready, at the worst moment.")
            .query("lag", "max(histogram_quantile(0.99, sum by (job, instance, runtime, probe, le) (rate(tower_stall_lag_seconds_bucket{$runtime}[$__rate_interval]))))")
            .unit("s")
            .nothing("no instance")
            .below(GREEN)
            .from(0.1, ORANGE)
            .from(0.5, RED),
        machine::lost(),
        Panel::name("Version", "The version of tower-stall that is linked in. More than one, if instances differ.")
            .query("{{version}}", "count by (version) (tower_stall_build_info{$instance})")
            .nothing("no instance")
            .below("blue"),
    ]
}

fn busy() -> Panel {
    Panel::lines("Workers busy", "The share of the last interval in which each worker did not wait for something to do. One at 100 % while the others idle is held by one task.")
        .query("{{runtime}} {{worker}}", "max by (runtime, worker) (tower_stall_worker_busy_ratio{$runtime})")
        .unit("percentunit")
        .max(1.0)
        .nothing("No instance")
}

fn stalled() -> Panel {
    Panel::lines("Workers stalled", "Workers that are inside a stall, beside all there are. When the two meet, nothing moves. It is seen once a scrape: what is shorter may not show.")
        .query("{{runtime}} stalled", "sum by (runtime) (tower_stall_workers_stalled{$runtime})")
        .query("{{runtime}} workers", "sum by (runtime) (tower_stall_workers{$runtime})")
        .nothing("No instance")
}

fn in_progress() -> Panel {
    Panel::lines("Stalls in progress", "The age of the oldest poll that has not returned, by route. A line that climbs and does not fall is a deadlock.")
        .size(10, 8)
        .query("{{method}} {{route}}", "topk(10, max by (method, route) (tower_stall_in_progress_seconds{$instance}) > 0)")
        .unit("s")
        .nothing("None was seen at a scrape")
        .link("Open this route", TO_ROUTE)
}

fn lag() -> Panel {
    Panel::log_lines("Lag", "Timer: a deadline to its wake, 1 ms at least. Queue: a wake to its poll. Only timers late: the worker that looks after timers and sockets is held. Both: all are.")
        .query("{{runtime}} {{probe}} p50", "histogram_quantile(0.5, sum by (runtime, probe, le) (rate(tower_stall_lag_seconds_bucket{$runtime}[$__rate_interval])))")
        .query("{{runtime}} {{probe}} p99", "histogram_quantile(0.99, sum by (runtime, probe, le) (rate(tower_stall_lag_seconds_bucket{$runtime}[$__rate_interval])))")
        .query("{{runtime}} {{probe}} max", "histogram_quantile(1, sum by (runtime, probe, le) (rate(tower_stall_lag_seconds_bucket{$runtime}[$__rate_interval])))")
        .unit("s")
        .nothing("No instance")
        .from(0.1, ORANGE)
        .from(0.5, RED)
        .below("transparent")
}

fn blocking_pool() -> Panel {
    Panel::log_lines("Wait for spawn_blocking", "How long work given to spawn_blocking waits for a thread; asked every 5 s. A gap, while the lag goes on, is a pool that is full for good.")
        .query("{{runtime}} p50", "histogram_quantile(0.5, sum by (runtime, le) (rate(tower_stall_blocking_pool_delay_seconds_bucket{$runtime}[$__rate_interval])))")
        .query("{{runtime}} max", "histogram_quantile(1, sum by (runtime, le) (rate(tower_stall_blocking_pool_delay_seconds_bucket{$runtime}[$__rate_interval])))")
        .unit("s")
        .nothing("No instance")
        .from(0.1, ORANGE)
        .below("transparent")
}

fn causes() -> Panel {
    Panel::stacked("Stolen, by cause", "Worker seconds stolen per second. cpu and blocked are the code's; preempted and paused the machine's; unknown was over before the watchdog saw it.")
        .size(8, 8)
        .query("{{cause}}", "sum by (cause) (rate(tower_stall_duration_seconds_sum{$instance}[$__rate_interval]))")
        .unit("none")
    .reach(0.1)
        .nothing("No stall has ended")
    .by_cause()
}

fn rescues() -> Panel {
    Panel::bars("Rescues", "Stalls of the worker that looks after timers and sockets, during which nothing moved until a nudge woke another worker. Each is a freeze that was cut short.")
        .size(8, 8)
        .query("{{runtime}}", "sum by (runtime) (rate(tower_stall_rescues_total{$runtime}[$__rate_interval]))")
        .unit("eps")
    .reach(1.0)
        .nothing("No instance")
}

fn tasks() -> Panel {
    Panel::lines(
        "Tasks",
        "Tasks that the runtime has, and those that wait in its shared queue. Tasks that only grow are a leak.",
    )
    .size(8, 8)
    .query("{{runtime}} alive", "sum by (runtime) (tower_stall_alive_tasks{$runtime})")
    .query("{{runtime}} queued", "sum by (runtime) (tower_stall_global_queue_depth{$runtime})")
    .nothing("No instance")
}

fn late() -> Panel {
    Panel::log_lines("The watchdog's own lateness", "How late a thread that only sleeps and looks is woken. High: a CPU quota, busy neighbours, a suspended machine. Then stalls are not the code's.")
        .size(6, 8)
        .query("p50", "histogram_quantile(0.5, sum by (le) (rate(tower_stall_watchdog_late_seconds_bucket{$instance}[$__rate_interval])))")
        .query("p99", "histogram_quantile(0.99, sum by (le) (rate(tower_stall_watchdog_late_seconds_bucket{$instance}[$__rate_interval])))")
        .query("max", "histogram_quantile(1, sum by (le) (rate(tower_stall_watchdog_late_seconds_bucket{$instance}[$__rate_interval])))")
        .unit("s")
        .nothing("No instance")
        .from(0.05, ORANGE)
        .from(0.25, RED)
        .below("transparent")
}

fn ticks() -> Panel {
    Panel::lines(
        "Looks of the watchdog",
        "Per second: at least one, 200 and more under traffic. At 0 it is dead, and nothing on this page is watched.",
    )
    .size(6, 8)
    .query(
        "{{instance}}",
        "topk(10, sum by (instance) (rate(tower_stall_watchdog_ticks_total{$instance}[$__rate_interval])))",
    )
    .unit("eps")
    .link("Its stalls, with their lines of code", TO_STALLS)
    .nothing("No instance")
}

fn captures() -> Panel {
    Panel::bars("Stacks, by result", "Attempts to take the stack of a stalled thread. running: it would take a signal, and those are off. torn, timeout: it went on meanwhile; a few are normal. unsupported: not on this system.")
        .size(6, 8)
        .query("{{result}}", "sum by (result) (rate(tower_stall_stack_captures_total{$instance}[$__rate_interval]))")
        .unit("eps")
    .reach(1.0)
        .nothing("No instance")
}

fn dropped() -> Panel {
    Panel::bars("Left out", "What was dropped, limited or contained, per second. Counts are complete nevertheless. Suppressed reports are normal in a sick service; the rest should be 0.")
        .size(6, 8)
        .query("reports suppressed", "sum(rate(tower_stall_reports_suppressed_total{$instance}[$__rate_interval]))")
        .query("events dropped", "sum(rate(tower_stall_events_dropped_total{$instance}[$__rate_interval]))")
        .query("requests of overflowed routes", "sum(rate(tower_stall_routes_overflowed_total{$instance}[$__rate_interval]))")
        .query("panics of the hook", "sum(rate(tower_stall_hook_panics_total{$instance}[$__rate_interval]))")
        .unit("eps")
    .reach(1.0)
        .nothing("No instance")
}
