//! One route or several: whether their time goes into their own code or into what they wait for.

use crate::dashboard::Dashboard;
use crate::delays;
use crate::longest_stall;
use crate::panel::{GREEN, ORANGE, Panel, RED};
use crate::promql::{buckets, quantile, rate, stolen_seconds, sum};
use crate::stall_split;
use crate::stall_tables;
use crate::variable::{INSTANCE, JOB, METHOD, ROUTE};

const LINE_OF_CODE: &str = "\
If the service shows its stalls (`Server::show`), click the number of stalls in the table to the \
left. Otherwise search the log of the instance: each stall is one event with the target \
`tower_stall` and the fields `route`, `cause`, `location` (such as `src/report.rs:20`) and \
`stack`. Use the instances from the table and the times from the bars above.

[Step by step](https://github.com/tower-stall/tower-stall/blob/main/docs/runbook.md\
#from-a-route-to-its-line-of-code) \
· [Contents of a report](https://docs.rs/tower-stall) \
· [Blocking patterns and their counterparts]\
(https://github.com/tower-stall/tower-stall/blob/main/docs/blocking.md)
";

pub(crate) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "event-loop-route",
        title: "Event loop / Route",
        description: "One route or several: how long their polls stall a worker and why, whether \
            their time goes into their own code or into what they wait for, and whether they are \
            victims of other routes.",
        file: "route",
        variables: &[JOB, INSTANCE, METHOD, ROUTE],
        rows: vec![
            stats(),
            vec![causes(), stall_split::panel("$route").size(8, 8), polls()],
            vec![durations(), breakdown()],
            vec![poll_quantiles(), latency()],
            vec![outcomes(), in_flight(), handed_off()],
            vec![delays::of_route(), oldest_request()],
            vec![
                stall_tables::by_instance().size(14, 8),
                Panel::text("From here to the line of code", LINE_OF_CODE).size(10, 8),
            ],
        ],
    }
}

fn stats() -> Vec<Panel> {
    vec![
        Panel::stat(
            "mean",
            "Request rate",
            "Completed requests per second, mean over the selected time range.",
        )
        .query("requests", &rate("", "tower_stall_requests_total{$route}"))
        .unit("reqps")
        .no_value("none")
        .base_color("blue"),
        Panel::peak(
            "Stall time per second",
            "Worker seconds spent in stalls per second, at the worst moment; 1 is a whole worker. \
            What the host added to them is not included.",
        )
        .query(
            "stalled",
            &format!(
                "{} or 0 * sum(tower_stall_in_progress_seconds{{$route}})",
                rate("", &stolen_seconds("$route")),
            ),
        )
        .unit("none")
        .decimals(3)
        .no_value("no stalls")
        .base_color(GREEN)
        .threshold(0.01, ORANGE)
        .threshold(0.5, RED),
        Panel::peak(
            "Longest poll",
            "Upper bound of the longest poll in the selected time range: the bound of its bucket. \
            A poll above 25 ms stalls its worker.",
        )
        .query(
            "longest",
            &format!(
                "histogram_quantile(1, {})",
                buckets("tower_stall_poll_duration_seconds", "{$route}"),
            ),
        )
        .unit("s")
        .no_value("no polls")
        .base_color(GREEN)
        .threshold(0.025_1, ORANGE)
        .threshold(0.5, RED),
        longest_stall::panel(longest_stall::AGE, "$route").no_value("no requests"),
        Panel::peak(
            "Schedule latency (p99)",
            "Time from the wake of a request to its next poll, at the worst moment. If it is high, \
            this route is a victim: the Overview names the routes that stall the workers.",
        )
        .query("latency", &quantile("0.99", "", "tower_stall_schedule_delay_seconds", "{$route}"))
        .unit("s")
        .no_value("no waits")
        .base_color(GREEN)
        .threshold(0.1, ORANGE)
        .threshold(0.5, RED),
        Panel::peak("Requests in flight", "Requests that have begun and not ended, at the peak.")
            .query("in flight", "sum(tower_stall_requests_in_flight{$route})")
            .no_value("none")
            .base_color("blue"),
    ]
}

fn causes() -> Panel {
    Panel::stacked(
        "Stall time by cause",
        "Worker seconds spent in stalls per second. cpu: the handler computes; move the work to \
        spawn_blocking or split it. blocked: the handler waits in a system call or for a lock; use \
        the async counterpart. preempted, paused: caused by the host, not by this route. unknown: \
        the stall ended before the watchdog saw it.",
    )
    .size(8, 8)
    .query("{{cause}}", &rate("cause", "tower_stall_duration_seconds_sum{$route}"))
    .unit("none")
    .soft_max(0.1)
    .no_value("No stall has ended")
    .cause_colors()
}

fn polls() -> Panel {
    Panel::heatmap(
        "Poll duration",
        "Number of polls by duration. A healthy route shows one band at the bottom; two bands are \
        two kinds of requests.",
    )
    .size(8, 8)
    .query("{{le}}", &buckets("tower_stall_poll_duration_seconds", "{$route}"))
    .no_value("No requests")
}

fn durations() -> Panel {
    let duration = |q| quantile(q, "", "tower_stall_request_duration_seconds", "{$route}");
    let busy = |q| quantile(q, "", "tower_stall_request_busy_seconds", "{$route}");
    Panel::log_lines(
        "Request duration and busy time",
        "Time from the call to the end of the body, and the part of it that was spent in polls. If \
        the two are close, the time goes into this service's own code. If they are far apart, it \
        goes into waiting: for a database or another service, or for a worker.",
    )
    .query("duration p50", &duration("0.5"))
    .query("duration p99", &duration("0.99"))
    .query("busy p50", &busy("0.5"))
    .query("busy p99", &busy("0.99"))
    .unit("s")
    .no_value("No requests")
}

fn breakdown() -> Panel {
    let requests = rate("", "tower_stall_request_duration_seconds_count{$route}");
    let duration = rate("", "tower_stall_request_duration_seconds_sum{$route}");
    let busy = rate("", "tower_stall_request_busy_seconds_sum{$route}");
    let latency = format!(
        "({} or 0 * sum(tower_stall_requests_in_flight{{$route}}))",
        rate("", "tower_stall_schedule_delay_seconds_sum{$route}"),
    );
    Panel::stacked(
        "Request time breakdown",
        "Mean time of a request, in three parts: in this service's own code, ready but waiting for \
        a worker, and waiting for something else, such as a database, a timer or the client.",
    )
    .query("own code", &format!("{busy} / {requests}"))
    .query("waiting for a worker", &format!("{latency} / {requests}"))
    .query(
        "waiting for something else",
        &format!("clamp_min(\n  {duration} - {busy}\n  - {latency},\n  0\n) / {requests}"),
    )
    .unit("s")
    .no_value("No requests")
}

fn poll_quantiles() -> Panel {
    let duration = |q| quantile(q, "phase", "tower_stall_poll_duration_seconds", "{$route}");
    Panel::log_lines(
        "Poll duration by phase",
        "handler: the call and its future. body: one frame of the response body. The dashed line \
        is the default stall threshold.",
    )
    .query("{{phase}} p50", &duration("0.5"))
    .query("{{phase}} p99", &duration("0.99"))
    .unit("s")
    .no_value("No requests")
    .threshold(0.025, ORANGE)
    .base_color("transparent")
}

fn latency() -> Panel {
    let latency = |q| quantile(q, "", "tower_stall_schedule_delay_seconds", "{$route}");
    Panel::log_lines(
        "Schedule latency and socket wait",
        "How long requests were ready but waited: from the wake of a request to its next poll, and \
        in the socket, from the arrival of its bytes to the server's read. Caused by other routes, \
        or by other requests of this one. The socket wait is known only where the service uses \
        listener or io.",
    )
    .query("latency p50", &latency("0.5"))
    .query("latency p99", &latency("0.99"))
    .query("socket p99", &quantile("0.99", "", "tower_stall_socket_wait_seconds", "{$route}"))
    .unit("s")
    .no_value("No waits")
    .threshold(0.1, ORANGE)
    .base_color("transparent")
}

fn outcomes() -> Panel {
    Panel::stacked(
        "Requests by outcome",
        "Requests per second. cancelled: dropped before the end, as when a client gives up; if \
        this coincides with stalls, they are the likely reason.",
    )
    .size(8, 8)
    .query("{{outcome}}", &rate("outcome", "tower_stall_requests_total{$route}"))
    .unit("reqps")
    .no_value("No requests")
}

fn in_flight() -> Panel {
    let requests = sum("method, route", "tower_stall_requests_in_flight{$route}");
    Panel::lines(
        "Requests in flight",
        "Requests that have begun and not ended. The number grows while none completes.",
    )
    .size(8, 8)
    .query("{{method}} {{route}}", &format!("topk(10, {requests})"))
    .no_value("No requests")
}

fn handed_off() -> Panel {
    let polls = rate("method, route", "tower_stall_handed_off_polls_total{$route}");
    Panel::bars(
        "Polls handed off",
        "Long polls inside block_in_place, which hands the worker's core to another thread. They \
        delay no other task, so they are not stalls, but each takes a thread.",
    )
    .size(8, 8)
    .query("{{method}} {{route}}", &format!("topk(10, {polls})"))
    .unit("eps")
    .no_value("No block_in_place")
}

fn oldest_request() -> Panel {
    let age = "max by (method, route, instance) (tower_stall_oldest_request_seconds{$route})";
    Panel::lines(
        "Oldest request that is not polled",
        "How long ago the request in flight that has waited longest was last polled, if more than \
        a second. A line that climbs without end is an async deadlock or a peer that does not \
        respond, unless the route waits by design, as a stream of events does.",
    )
    .query("{{method}} {{route}} on {{instance}}", &format!("topk(10, {age} > 0)"))
    .unit("s")
    .no_value("All requests are polled")
    .threshold(45.0, ORANGE)
    .base_color("transparent")
}
