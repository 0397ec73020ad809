//! One route, or several: how it behaves, and whether it is us or what we wait for.

use crate::dashboard::Dashboard;
use crate::panel::{GREEN, ORANGE, Panel, RED, YELLOW};
use crate::stolen_table;
use crate::variable::{INSTANCE, JOB, METHOD, ROUTE};

const LINE_OF_CODE: &str = "\
**From here to the line of code.** Where the service shows its stalls (`Server::show_stalls`), a click on their number beside leads to them. \
Else: each stall is one event in the log of its process: target `tower_stall`, with `route`, `cause`, `location` \
(`src/report.rs:20`) and `stack`. Search the logs of the instances in the table beside for `tower_stall` and this route, at the time of a bar above.

[How to find it, step by step](https://github.com/tower-stall/tower-stall/blob/main/docs/runbook.md#from-a-route-to-its-line-of-code) \
· [What a report says](https://docs.rs/tower-stall/latest/tower_stall/#what-a-report-looks-like) \
· [Illnesses and their cures](https://docs.rs/tower-stall/latest/tower_stall/#the-gallery)
";

pub(crate) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "event-loop-route",
        title: "Event loop / Route",
        description: "One route or several: how long its polls hold a worker and why, whether its time goes into our code or into what it \
            waits for, and whether it is a victim itself.",
        file: "route",
        variables: &[JOB, INSTANCE, METHOD, ROUTE],
        rows: vec![
            verdicts(),
            vec![causes(), polls()],
            vec![durations(), own_share()],
            vec![poll_quantiles(), waits()],
            vec![outcomes(), in_flight(), handed_off()],
            vec![stolen_table::by_instance().size(14, 8), Panel::text("The line of code", LINE_OF_CODE).size(10, 8)],
        ],
    }
}

fn verdicts() -> Vec<Panel> {
    vec![
        Panel::stat("mean", "Requests", "Requests that ended, per second: the mean of the time shown.")
            .query("requests", "sum(rate(tower_stall_requests_total{$route}[$__rate_interval]))")
            .unit("reqps")
            .nothing("none")
            .below("blue"),
        Panel::verdict("Stolen per second", "Worker seconds that its stalls stole per second, at the worst moment; 1 is a whole worker. The machine's part is left out.")
            .query("stolen", "sum(rate(tower_stall_duration_seconds_sum{$route, cause!~\"preempted|paused\"}[$__rate_interval])) or 0 * sum(tower_stall_in_progress_seconds{$route})")
            .unit("none")
            .decimals(3)
            .nothing("no stalls")
            .below(GREEN)
            .from(0.01, ORANGE)
            .from(0.5, RED),
        Panel::verdict("Longest poll", "The bucket of the longest poll of the time shown: it took no longer than that. Above 25 ms it held up others.")
            .query("longest", "histogram_quantile(1, sum by (le) (increase(tower_stall_poll_duration_seconds_bucket{$route}[$__rate_interval])))")
            .unit("s")
            .nothing("no polls")
            .below(GREEN)
            .from(0.025_1, ORANGE)
            .from(0.5, RED),
        Panel::verdict("Stalled right now", "The oldest poll that has not returned, at the worst scrape of the time shown.")
            .query("in progress", "max(tower_stall_in_progress_seconds{$route})")
            .unit("s")
            .nothing("no requests")
            .below(GREEN)
            .from(0.1, YELLOW)
            .from(1.0, ORANGE)
            .from(5.0, RED),
        Panel::verdict("Own wait for a worker", "How long its requests, once woken, waited for their next poll: 99th percentile, at the worst moment. If this is high it is a victim: look for the culprit in the Overview.")
            .query("wait", "histogram_quantile(0.99, sum by (le) (rate(tower_stall_schedule_delay_seconds_bucket{$route}[$__rate_interval])))")
            .unit("s")
            .nothing("never waited")
            .below(GREEN)
            .from(0.1, ORANGE)
            .from(0.5, RED),
        Panel::verdict("In flight", "Requests that had begun and were not over, at the fullest moment.")
            .query("in flight", "sum(tower_stall_requests_in_flight{$route})")
            .nothing("none")
            .below("blue"),
    ]
}

fn causes() -> Panel {
    Panel::stacked(
        "Stolen, by cause",
        "Worker seconds stolen per second. cpu: it computes; move that to spawn_blocking or split it. blocked: it sleeps in a system call or on a \
        lock; use the async one. preempted, paused: the machine, not this route. unknown: over before the watchdog saw it.",
    )
    .query("{{cause}}", "sum by (cause) (rate(tower_stall_duration_seconds_sum{$route}[$__rate_interval]))")
    .unit("none")
    .reach(0.1)
    .nothing("No stall has ended")
    .by_cause()
}

fn polls() -> Panel {
    Panel::heatmap(
        "Polls",
        "How many polls took how long. Healthy is one band at the bottom; two bands are two kinds of request.",
    )
    .query("{{le}}", "sum by (le) (increase(tower_stall_poll_duration_seconds_bucket{$route}[$__rate_interval]))")
    .nothing("No requests")
}

fn durations() -> Panel {
    Panel::log_lines(
        "Request duration and busy time",
        "From the call to the end of the body, beside the part of it that was spent in polls. Is it us or the database? Near each other: \
        our code. Far apart: what we wait for, or a wait for a worker.",
    )
    .query("duration p50", "histogram_quantile(0.5, sum by (le) (rate(tower_stall_request_duration_seconds_bucket{$route}[$__rate_interval])))")
    .query("duration p99", "histogram_quantile(0.99, sum by (le) (rate(tower_stall_request_duration_seconds_bucket{$route}[$__rate_interval])))")
    .query("busy p50", "histogram_quantile(0.5, sum by (le) (rate(tower_stall_request_busy_seconds_bucket{$route}[$__rate_interval])))")
    .query("busy p99", "histogram_quantile(0.99, sum by (le) (rate(tower_stall_request_busy_seconds_bucket{$route}[$__rate_interval])))")
    .unit("s")
    .nothing("No requests")
}

fn own_share() -> Panel {
    Panel::stacked(
        "Where a request's time goes",
        "Mean time of a request, in three parts: in our code, waiting for a worker though it could go on, and waiting for something else, \
        such as a database, a timer or the client.",
    )
    .query("our code", "sum(rate(tower_stall_request_busy_seconds_sum{$route}[$__rate_interval])) / sum(rate(tower_stall_request_duration_seconds_count{$route}[$__rate_interval]))")
    .query("waiting for a worker", "(sum(rate(tower_stall_schedule_delay_seconds_sum{$route}[$__rate_interval])) or 0 * sum(tower_stall_requests_in_flight{$route})) / sum(rate(tower_stall_request_duration_seconds_count{$route}[$__rate_interval]))")
    .query(
        "waiting for something else",
        "clamp_min(\n  sum(rate(tower_stall_request_duration_seconds_sum{$route}[$__rate_interval])) - sum(rate(tower_stall_request_busy_seconds_sum{$route}[$__rate_interval]))\n  - (sum(rate(tower_stall_schedule_delay_seconds_sum{$route}[$__rate_interval])) or 0 * sum(tower_stall_requests_in_flight{$route})),\n  0\n) / sum(rate(tower_stall_request_duration_seconds_count{$route}[$__rate_interval]))",
    )
    .unit("s")
    .nothing("No requests")
}

fn poll_quantiles() -> Panel {
    Panel::log_lines(
        "Polls, by phase",
        "How long one poll takes. handler: the call and its future; body: a frame of the answer. The dashed line is the stall threshold's default.",
    )
    .query("{{phase}} p50", "histogram_quantile(0.5, sum by (phase, le) (rate(tower_stall_poll_duration_seconds_bucket{$route}[$__rate_interval])))")
    .query("{{phase}} p99", "histogram_quantile(0.99, sum by (phase, le) (rate(tower_stall_poll_duration_seconds_bucket{$route}[$__rate_interval])))")
    .unit("s")
    .nothing("No requests")
    .from(0.025, ORANGE)
    .below("transparent")
}

fn waits() -> Panel {
    Panel::log_lines(
        "Wait for a worker",
        "From a request's wake to its next poll. What is here was done to this route by others, or by itself on another connection.",
    )
    .query("p50", "histogram_quantile(0.5, sum by (le) (rate(tower_stall_schedule_delay_seconds_bucket{$route}[$__rate_interval])))")
    .query("p99", "histogram_quantile(0.99, sum by (le) (rate(tower_stall_schedule_delay_seconds_bucket{$route}[$__rate_interval])))")
    .unit("s")
    .nothing("Its requests never wait")
    .from(0.1, ORANGE)
    .below("transparent")
}

fn outcomes() -> Panel {
    Panel::stacked(
        "Outcomes",
        "Requests per second by how they ended. cancelled: dropped before the end, as by a client that gave up; if it comes with stalls, they \
        are why.",
    )
    .size(8, 8)
    .query("{{outcome}}", "sum by (outcome) (rate(tower_stall_requests_total{$route}[$__rate_interval]))")
    .unit("reqps")
    .nothing("No requests")
}

fn in_flight() -> Panel {
    Panel::lines("In flight", "Requests that have begun and are not over. It grows while nothing gets done.")
        .size(8, 8)
        .query("{{method}} {{route}}", "topk(10, sum by (method, route) (tower_stall_requests_in_flight{$route}))")
        .nothing("No requests")
}

fn handed_off() -> Panel {
    Panel::bars(
        "Handed off",
        "Long polls that gave their worker away by block_in_place. They hold up nobody, and are no stalls; each costs a thread.",
    )
    .size(8, 8)
    .query("{{method}} {{route}}", "topk(10, sum by (method, route) (rate(tower_stall_handed_off_polls_total{$route}[$__rate_interval])))")
    .unit("eps")
    .nothing("No block_in_place")
}
