//! The fleet: the state of its event loops, the routes that stall them, and the requests delayed.

use serde_json::json;

use crate::dashboard::Dashboard;
use crate::delays;
use crate::host_delay;
use crate::links::{ROW_TO_INSTANCE, ROW_TO_STALLS, TO_ROUTE};
use crate::longest_stall;
use crate::panel::{GREEN, ORANGE, Panel, RED, YELLOW, link};
use crate::promql::{buckets, quantile, rate, stolen_seconds};
use crate::stall_split;
use crate::stall_tables;
use crate::variable::{INSTANCE, JOB};

pub(crate) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "event-loop-overview",
        title: "Event loop / Overview",
        description: "Whether the event loops of a fleet are healthy, which routes stall their \
            worker threads, and which requests wait. Read it from top to bottom: the first row \
            shows the worst moment of the selected time range, the first table names the routes that \
            do most harm and links to their dashboards, and the panels below show why, and the \
            effect on other requests.",
        file: "overview",
        variables: &[JOB, INSTANCE],
        rows: vec![
            stats(),
            vec![delays::caused_by_route().size(14, 7), delays::victims().size(10, 7)],
            vec![stall_tables::by_route().size(14, 10), timeline()],
            vec![stall_time(), latency()],
            vec![polls(), lag()],
            vec![causes(), stall_split::panel("$instance").size(7, 8), instances()],
            vec![utilization(), queue_depth(), blocking_pool()],
        ],
    }
}

fn stats() -> Vec<Panel> {
    let stalled = rate("job", &stolen_seconds("$instance"));
    let workers = "sum by (job) (tower_stall_workers{$instance})";
    let lag =
        quantile("0.99", "job, instance, runtime, probe", "tower_stall_lag_seconds", "{$instance}");
    let ticks = rate("job, instance", "tower_stall_watchdog_ticks_total{$instance}");
    vec![
        longest_stall::panel(
            "Age of the oldest stall in progress, at the worst scrape of the selected time range. \
            Above 5 s the worker counts as wedged; the table below names the route. Stalls shorter \
            than the scrape interval may be missing here, but not in the other panels.",
            "$instance",
        )
        .no_value("no instance"),
        Panel::peak(
            "Worker time in stalls",
            "Share of all worker time of the worst job that its own code has spent in stalls, \
            without what the host added, at the worst moment. The budget of the alerts is 1 %; they page at 10 %. Stalls \
            in progress are not included; see the panel to the left.",
        )
        .query("stalled", &format!("max(\n  ({stalled} or 0 * {workers})\n  / {workers}\n)"))
        .no_value("no instance")
        .unit("percentunit")
        .decimals(1)
        .base_color(GREEN)
        .threshold(0.01, ORANGE)
        .threshold(0.1, RED),
        Panel::peak(
            "Lag (p99)",
            "How late the worst runtime ran ready tasks and timers, at the worst moment. An idle \
            runtime shows about 1 ms, because that is the resolution of tokio's timers.",
        )
        .query("lag", &format!("max({lag})"))
        .no_value("no instance")
        .unit("s")
        .base_color(GREEN)
        .threshold(0.1, ORANGE)
        .threshold(0.5, RED),
        Panel::peak(
            "Schedule latency (p99)",
            "Time from the wake of a request to its next poll, 99th percentile over all requests, \
            at the worst moment. These requests are the victims of stalls. Requests that wait for \
            a socket while the I/O driver is starved are not included; they show as timer lag.",
        )
        .query(
            "latency",
            &quantile("0.99", "", "tower_stall_schedule_delay_seconds", "{$instance}"),
        )
        .unit("s")
        .no_value("no waits")
        .base_color(GREEN)
        .threshold(0.1, ORANGE)
        .threshold(0.5, RED),
        host_delay::panel(),
        Panel::stat(
            "min",
            "Watchdogs running",
            "Share of instances whose watchdog scans the workers, at the worst moment. Below 100 % \
            some instances are not watched, and the absence of stalls there means nothing.",
        )
        .query("running", &format!("sum({ticks} > bool 0)\n/\ncount({ticks})"))
        .unit("percentunit")
        .no_value("no instance")
        .base_color(RED)
        .threshold(1.0, GREEN),
    ]
}

fn timeline() -> Panel {
    let in_progress = "max by (method, route) (tower_stall_in_progress_seconds{$instance})";
    let finished = rate("method, route", &stolen_seconds("$instance"));
    Panel::state_timeline(
        "Stall timeline",
        "When each route was inside stalls, and how much of a worker they took: yellow for a \
        little, orange for a tenth or more, red for half or more. A stall in progress for more \
        than a second counts as a whole worker, so a handler that never returns stays red to the \
        right edge. What the host added to them is not included.",
    )
    .size(10, 10)
    .query(
        "{{method}} {{route}}",
        &format!(
            "topk(12,\n  ({finished} or 0 * {in_progress})\n  +\n  ({in_progress} > bool 1)\n) > 0"
        ),
    )
    .unit("none")
    .decimals(3)
    .base_color(YELLOW)
    .threshold(0.1, ORANGE)
    .threshold(0.5, RED)
    .no_value("No stalls")
    .link("Open this route", TO_ROUTE)
}

fn stall_time() -> Panel {
    Panel::lines(
        "Stall time by route",
        "Worker seconds spent in stalls per second, for the ten routes with the most; 1 is a whole \
        worker. What the host added to them is not included.",
    )
    .query(
        "{{method}} {{route}}",
        &format!("topk(10, {})", rate("method, route", &stolen_seconds("$instance"))),
    )
    .unit("none")
    .soft_max(0.1)
    .no_value("No stall has ended")
    .link("Open this route", TO_ROUTE)
}

fn latency() -> Panel {
    let latency =
        quantile("0.99", "method, route", "tower_stall_schedule_delay_seconds", "{$instance}");
    Panel::log_lines(
        "Schedule latency by route (p99)",
        "Time from the wake of a request to its next poll, for the ten routes that wait longest. \
        These routes are the victims; the table above names the routes that stall the workers.",
    )
    .query("{{method}} {{route}}", &format!("topk(10, {latency})"))
    .unit("s")
    .no_value("No waits")
    .link("Open this route", TO_ROUTE)
}

fn polls() -> Panel {
    Panel::heatmap(
        "Poll duration",
        "Number of polls by duration, over all routes. A healthy service shows one dark band at \
        the bottom. Polls above 25 ms stall their worker: a band there is a regular problem, \
        single cells are isolated incidents.",
    )
    .query("{{le}}", &buckets("tower_stall_poll_duration_seconds", "{$instance}"))
    .no_value("No requests")
}

fn lag() -> Panel {
    let lag = |q| quantile(q, "probe", "tower_stall_lag_seconds", "{$instance}");
    Panel::log_lines(
        "Lag",
        "How late the runtimes ran ready tasks and timers, over all instances. Timer: from a \
        timer's deadline to its wake, at least 1 ms. Queue: from a wake to its poll. If only the \
        timers are late, the worker that drives timers and I/O is stalled; if both are late, all \
        workers are.",
    )
    .query("{{probe}} p50", &lag("0.5"))
    .query("{{probe}} p99", &lag("0.99"))
    .query("{{probe}} max", &lag("1"))
    .unit("s")
    .threshold(0.1, ORANGE)
    .threshold(0.5, RED)
    .base_color("transparent")
    .no_value("No instance")
}

fn causes() -> Panel {
    Panel::stacked(
        "Stall time by cause",
        "Worker seconds spent in stalls per second. cpu: move the work to spawn_blocking or split \
        it. blocked: use an async client, lock or file. preempted, paused: caused by the host; add \
        cores or raise the CPU quota. unknown: the stall ended before the watchdog saw it.",
    )
    .size(7, 8)
    .query("{{cause}}", &rate("cause", "tower_stall_duration_seconds_sum{$instance}"))
    .unit("none")
    .soft_max(0.1)
    .no_value("No stall has ended")
    .cause_colors()
}

fn instances() -> Panel {
    let stalled = rate("job, instance", "tower_stall_duration_seconds_sum{$instance}");
    let workers = "sum by (job, instance) (tower_stall_workers{$instance})";
    let lag =
        quantile("0.99", "job, instance, runtime, probe", "tower_stall_lag_seconds", "{$instance}");
    Panel::table(
        "Instances",
        "Instances by the share of their worker time that is spent in stalls. If one differs from \
        the others, suspect its host or its clients; if all are alike, suspect the code. Click an \
        instance to open its dashboard, or its number of stalled workers to open its reports, if \
        the service shows them.",
    )
    .size(10, 8)
    .label_column("job", "Job")
    .label_column("instance", "Instance")
    .value_column(
        "Time in stalls",
        "percentunit",
        &format!("topk(20,\n  ({stalled} or 0 * {workers})\n  / {workers}\n)"),
    )
    .value_column("Lag (p99)", "s", &format!("max by (job, instance) ({lag})"))
    .value_column(
        "Stalled now",
        "short",
        "sum by (job, instance) (tower_stall_workers_stalled{$instance})",
    )
    .value_column("Workers", "short", workers)
    .gauge_column("Time in stalls", 1, 160)
    .override_field("Job", &json!([{ "id": "custom.width", "value": 150 }]))
    .override_field("Lag (p99)", &json!([{ "id": "custom.width", "value": 90 }]))
    .override_field("Workers", &json!([{ "id": "custom.width", "value": 80 }]))
    .override_field(
        "Stalled now",
        &json!([
            { "id": "custom.width", "value": 100 },
            { "id": "links", "value": [link("Reports with lines of code", ROW_TO_STALLS)] },
        ]),
    )
    .override_field(
        "Instance",
        &json!([{ "id": "links", "value": [link("Open this instance", ROW_TO_INSTANCE)] }]),
    )
    .no_value("No instance")
}

fn utilization() -> Panel {
    Panel::lines(
        "Worker utilization",
        "Share of time in which workers were not parked, over all instances and for the busiest \
        one. Near 100 % with a growing queue means too few workers or too much load; well below, \
        with high lag, means stalls.",
    )
    .size(8, 8)
    .query("all", "avg(tower_stall_worker_busy_ratio{$instance})")
    .query(
        "busiest instance",
        "max(avg by (job, instance) (tower_stall_worker_busy_ratio{$instance}))",
    )
    .unit("percentunit")
    .max(1.0)
    .no_value("No instance")
}

fn queue_depth() -> Panel {
    Panel::lines(
        "Global queue depth",
        "Tasks in the runtimes' global queues, over all instances and for the worst one. A queue \
        that grows while workers are busy means overload; while they are not, it means stalls.",
    )
    .size(8, 8)
    .query("all", "sum(tower_stall_global_queue_depth{$instance})")
    .query(
        "worst instance",
        "max(sum by (job, instance) (tower_stall_global_queue_depth{$instance}))",
    )
    .soft_max(1.0)
    .no_value("No instance")
}

fn blocking_pool() -> Panel {
    let delay = |q| quantile(q, "", "tower_stall_blocking_pool_delay_seconds", "{$instance}");
    Panel::log_lines(
        "Blocking pool delay",
        "How long work passed to spawn_blocking waits for a thread, probed every 5 s. File I/O and \
        name lookups use this pool. Above 0.1 s the pool is full: find out what fills it before \
        you enlarge it.",
    )
    .size(8, 8)
    .query("p50", &delay("0.5"))
    .query("p99", &delay("0.99"))
    .unit("s")
    .threshold(0.1, ORANGE)
    .base_color("transparent")
    .no_value("No instance")
}
