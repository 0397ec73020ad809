//! The fleet: is the event loop healthy, who steals its time, who waits.

use serde_json::json;

use crate::dashboard::Dashboard;
use crate::links::{ROW_TO_INSTANCE, ROW_TO_STALLS, TO_ROUTE};
use crate::machine;
use crate::panel::{GREEN, ORANGE, Panel, RED, YELLOW, link};
use crate::stolen_table;
use crate::variable::{INSTANCE, JOB};

pub(crate) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "event-loop-overview",
        title: "Event loop / Overview",
        description: "Whether the event loops of a fleet are healthy, which routes hold their worker threads, and who waits. \
            Read it from top to bottom: the verdicts show the worst moment of the time shown; the table names the culprits, and leads to \
            their dashboards; below is what the others feel of it.",
        file: "overview",
        variables: &[JOB, INSTANCE],
        rows: vec![
            verdicts(),
            vec![stolen_table::by_route().size(14, 10), states()],
            vec![stolen(), waits()],
            vec![polls(), lag()],
            vec![causes(), instances()],
            vec![utilization(), queue(), blocking_pool()],
        ],
    }
}

fn verdicts() -> Vec<Panel> {
    vec![
        Panel::verdict(
            "Longest stall in progress",
            "The oldest poll that has not returned, at the worst scrape of the time shown. Above 5 s a worker is wedged: see the table for \
            its route. Stalls that fit between two scrapes are not in here, but in all that follows.",
        )
        .query("in progress", "max(tower_stall_in_progress_seconds{$instance})")
        .nothing("no instance")
        .unit("s")
        .below(GREEN)
        .from(0.1, YELLOW)
        .from(1.0, ORANGE)
        .from(5.0, RED),
        Panel::verdict(
            "Worker time stolen by code",
            "The share of all worker time of the worst job that went into stalls of the code's own making, at the worst moment. 1 % is the budget of \
            the alerts; at 10 % they page. A stall that goes on is not in here, but beside.",
        )
        .query(
            "stolen",
            "max(\n  (sum by (job) (rate(tower_stall_duration_seconds_sum{$instance, cause!~\"preempted|paused\"}[$__rate_interval])) or 0 * sum by (job) (tower_stall_workers{$instance}))\n  / sum by (job) (tower_stall_workers{$instance})\n)",
        )
        .nothing("no instance")
        .unit("percentunit")
        .decimals(1)
        .below(GREEN)
        .from(0.01, ORANGE)
        .from(0.1, RED),
        Panel::verdict(
            "Lag, 99th percentile",
            "How late the worst runtime ran what was ready, at the worst moment. A timer is at least 1 ms late, as tokio's steps are.",
        )
        .query(
            "lag",
            "max(histogram_quantile(0.99, sum by (job, instance, runtime, probe, le) (rate(tower_stall_lag_seconds_bucket{$instance}[$__rate_interval]))))",
        )
        .nothing("no instance")
        .unit("s")
        .below(GREEN)
        .from(0.1, ORANGE)
        .from(0.5, RED),
        Panel::verdict(
            "Requests' wait for a worker",
            "How long requests that could go on waited for their next poll, 99th percentile over all, at the worst moment. These are the \
            victims. Who waits for a socket while nobody looks at sockets is not in here, but in the lag of timers.",
        )
        .query(
            "wait",
            "histogram_quantile(0.99, sum by (le) (rate(tower_stall_schedule_delay_seconds_bucket{$instance}[$__rate_interval])))",
        )
        .unit("s")
        .nothing("nobody waited")
        .below(GREEN)
        .from(0.1, ORANGE)
        .from(0.5, RED),
        machine::lost(),
        Panel::stat(
            "min",
            "Watchdogs alive",
            "The share of instances whose watchdog ticks, at the worst moment. Below 100 % nobody watches some of them, and their silence \
            means nothing.",
        )
        .query(
            "alive",
            "sum(sum by (job, instance) (rate(tower_stall_watchdog_ticks_total{$instance}[$__rate_interval])) > bool 0)\n/\ncount(sum by (job, instance) (rate(tower_stall_watchdog_ticks_total{$instance}[$__rate_interval])))",
        )
        .unit("percentunit")
        .nothing("no instance")
        .below(RED)
        .from(1.0, GREEN),
    ]
}

fn states() -> Panel {
    Panel::states(
        "Stalled when",
        "Which routes were inside stalls, and how much of a worker they held: yellow a little, orange a tenth and more, red half and more. A \
        poll that has been going on for more than a second counts as a whole worker, so a handler that never returns is red to the end. The machine's part is left out.",
    )
    .size(10, 10)
    .query(
        "{{method}} {{route}}",
        "topk(12,\n  (sum by (method, route) (rate(tower_stall_duration_seconds_sum{$instance, cause!~\"preempted|paused\"}[$__rate_interval])) or 0 * max by (method, route) (tower_stall_in_progress_seconds{$instance}))\n  +\n  (max by (method, route) (tower_stall_in_progress_seconds{$instance}) > bool 1)\n) > 0",
    )
    .unit("none")
    .decimals(3)
    .below(YELLOW)
    .from(0.1, ORANGE)
    .from(0.5, RED)
    .nothing("No stalls")
    .link("Open this route", TO_ROUTE)
}

fn stolen() -> Panel {
    Panel::lines(
        "Stolen, by route",
        "Worker seconds that each route's stalls stole per second, the ten largest. 1 is a whole worker. What the machine stole is left out.",
    )
    .query(
        "{{method}} {{route}}",
        "topk(10, sum by (method, route) (rate(tower_stall_duration_seconds_sum{$instance, cause!~\"preempted|paused\"}[$__rate_interval])))",
    )
    .unit("none")
    .reach(0.1)
    .nothing("No stall has ended")
    .link("Open this route", TO_ROUTE)
}

fn waits() -> Panel {
    Panel::log_lines(
        "Who waits, by route",
        "How long requests that had been woken waited for their next poll, 99th percentile, the ten that wait most. They are victims: look \
        for the culprit in the table above.",
    )
    .query(
        "{{method}} {{route}}",
        "topk(10, histogram_quantile(0.99, sum by (method, route, le) (rate(tower_stall_schedule_delay_seconds_bucket{$instance}[$__rate_interval]))))",
    )
    .unit("s")
    .nothing("Nobody waited")
    .link("Open this route", TO_ROUTE)
}

fn polls() -> Panel {
    Panel::heatmap(
        "Polls",
        "How many polls took how long, of all routes. Healthy is one dark band at the bottom. Whatever is above 25 ms holds a worker; a \
        band there is a habit, single spots are accidents.",
    )
    .query("{{le}}", "sum by (le) (increase(tower_stall_poll_duration_seconds_bucket{$instance}[$__rate_interval]))")
    .nothing("No requests")
}

fn lag() -> Panel {
    Panel::log_lines(
        "Lag",
        "How late the runtimes ran what was ready. Timer: a deadline to its wake, 1 ms at least. Queue: a wake to its poll. All instances' probes \
        together. If only the timers are late, the worker that looks after timers and sockets is held; if both \
        are, all workers are.",
    )
    .query("{{probe}} p50", "histogram_quantile(0.5, sum by (probe, le) (rate(tower_stall_lag_seconds_bucket{$instance}[$__rate_interval])))")
    .query("{{probe}} p99", "histogram_quantile(0.99, sum by (probe, le) (rate(tower_stall_lag_seconds_bucket{$instance}[$__rate_interval])))")
    .query("{{probe}} max", "histogram_quantile(1, sum by (probe, le) (rate(tower_stall_lag_seconds_bucket{$instance}[$__rate_interval])))")
    .unit("s")
    .from(0.1, ORANGE)
    .from(0.5, RED)
    .below("transparent")
    .nothing("No instance")
}

fn causes() -> Panel {
    Panel::stacked(
        "Stolen, by cause",
        "Worker seconds stolen per second. cpu: move the work to spawn_blocking or split it. blocked: use the async client, lock or file. \
        preempted, paused: the machine; more cores, another quota. unknown: over before the watchdog saw it.",
    )
    .query("{{cause}}", "sum by (cause) (rate(tower_stall_duration_seconds_sum{$instance}[$__rate_interval]))")
    .unit("none")
    .reach(0.1)
    .nothing("No stall has ended")
    .by_cause()
}

fn instances() -> Panel {
    Panel::table(
        "Where",
        "Instances by the share of their worker time that is stolen now. One that stands out from its equals has a sick machine or a sick \
        client; if all are alike it is the code. A click opens the instance, or, on \
        the number of stalled workers, its reports, where the service shows them.",
    )
    .label("job", "Job")
    .label("instance", "Instance")
    .column(
        "Stolen",
        "percentunit",
        "topk(20,\n  (sum by (job, instance) (rate(tower_stall_duration_seconds_sum{$instance}[$__rate_interval])) or 0 * sum by (job, instance) (tower_stall_workers{$instance}))\n  / sum by (job, instance) (tower_stall_workers{$instance})\n)",
    )
    .column(
        "Lag, p99",
        "s",
        "max by (job, instance) (histogram_quantile(0.99, sum by (job, instance, runtime, probe, le) (rate(tower_stall_lag_seconds_bucket{$instance}[$__rate_interval]))))",
    )
    .column("Stalled now", "short", "sum by (job, instance) (tower_stall_workers_stalled{$instance})")
    .column("Workers", "short", "sum by (job, instance) (tower_stall_workers{$instance})")
    .gauge("Stolen", 1, 160)
    .with("Job", &json!([{ "id": "custom.width", "value": 150 }]))
    .with("Lag, p99", &json!([{ "id": "custom.width", "value": 90 }]))
    .with("Workers", &json!([{ "id": "custom.width", "value": 80 }]))
    .with(
        "Stalled now",
        &json!([
            { "id": "custom.width", "value": 100 },
            { "id": "links", "value": [link("Its stalls, with their lines of code", ROW_TO_STALLS)] },
        ]),
    )
    .with("Instance", &json!([{ "id": "links", "value": [link("Open this instance", ROW_TO_INSTANCE)] }]))
    .nothing("No instance")
}

fn utilization() -> Panel {
    Panel::lines(
        "Workers busy",
        "The share of time in which workers did not wait for something to do: of all, and of the busiest instance. Near 100 % with a queue \
        beside it means too few workers or too much work; far below, with lag, means stalls.",
    )
    .size(8, 8)
    .query("all", "avg(tower_stall_worker_busy_ratio{$instance})")
    .query("busiest instance", "max(avg by (job, instance) (tower_stall_worker_busy_ratio{$instance}))")
    .unit("percentunit")
    .max(1.0)
    .nothing("No instance")
}

fn queue() -> Panel {
    Panel::lines(
        "Tasks in the shared queue",
        "Tasks that wait for any worker: of all instances, and of the worst. A queue that grows while workers are busy is overload; while they \
        are not, somebody holds them.",
    )
    .size(8, 8)
    .query("all", "sum(tower_stall_global_queue_depth{$instance})")
    .query("worst instance", "max(sum by (job, instance) (tower_stall_global_queue_depth{$instance}))")
    .reach(1.0)
    .nothing("No instance")
}

fn blocking_pool() -> Panel {
    Panel::log_lines(
        "Wait for spawn_blocking",
        "How long work given to spawn_blocking waits for a thread: asked every 5 s. Files and name lookups go that way. Above 0.1 s the pool \
        is full: find what fills it, before you make it larger.",
    )
    .size(8, 8)
    .query("p50", "histogram_quantile(0.5, sum by (le) (rate(tower_stall_blocking_pool_delay_seconds_bucket{$instance}[$__rate_interval])))")
    .query("p99", "histogram_quantile(0.99, sum by (le) (rate(tower_stall_blocking_pool_delay_seconds_bucket{$instance}[$__rate_interval])))")
    .unit("s")
    .from(0.1, ORANGE)
    .below("transparent")
    .nothing("No instance")
}
