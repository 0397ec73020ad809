//! Who delays whom: the harm that stalls do.

use serde_json::json;

use crate::links::{ROW_TO_ROUTE, TO_ROUTE};
use crate::panel::{ORANGE, Panel, RED, link};
use crate::promql::rate;

/// The routes that delay others, most harm first.
pub(crate) fn caused_by_route() -> Panel {
    let caused = "increase(tower_stall_delay_caused_seconds_total{$instance}[$__range])";
    Panel::table(
        "Who delays others",
        "Routes by the harm that they do: for how many seconds per second other requests waited \
        for their polls, on average over the selected time range; 3 means that three requests \
        were kept waiting at any moment. Fix the first one first. What the host added is not \
        included, and neither are requests that are still waiting. TASK unattributed is code that \
        is not instrumented.",
    )
    .label_column("method", "Method")
    .label_column("route", "Route")
    .value_column(
        "Delay caused per second",
        "none",
        &format!("topk(10, sum by (method, route) ({caused}) / $__range_s > 0)"),
    )
    .gauge_column("Delay caused per second", 3, 260)
    .override_field("Method", &json!([{ "id": "custom.width", "value": 80 }]))
    .override_field(
        "Route",
        &json!([{ "id": "links", "value": [link("Open this route", ROW_TO_ROUTE)] }]),
    )
    .no_value("No request waited for a stall")
}

/// The routes that are delayed by stalls.
pub(crate) fn victims() -> Panel {
    let suffered =
        rate("method, route", r#"tower_stall_delay_suffered_seconds_total{$instance, by="stall"}"#);
    Panel::lines(
        "Who is delayed",
        "Seconds per second that requests waited for long polls of others, for the ten routes that \
        are delayed most. These are the victims.",
    )
    .query("{{method}} {{route}}", &format!("topk(10, {suffered})"))
    .unit("none")
    .soft_max(0.1)
    .no_value("No request waited for a stall")
    .link("Open this route", TO_ROUTE)
}

/// What a route has caused, and what it was delayed by.
pub(crate) fn of_route() -> Panel {
    let suffered = rate("by", "tower_stall_delay_suffered_seconds_total{$route}");
    let caused = rate("", "tower_stall_delay_caused_seconds_total{$route}");
    Panel::lines(
        "Delay caused and suffered",
        "caused: seconds per second that other requests waited for polls of this route. The others: \
        what its own requests waited for. stall: a long poll, of any route; load: many short polls; \
        host: the process was kept off the CPU; unknown: the runtime does not show it. Only delays \
        of 1 ms and more.",
    )
    .query("caused", &caused)
    .query("by {{by}}", &suffered)
    .unit("none")
    .soft_max(0.1)
    .no_value("No delay")
    .series_colors(&[
        ("caused", RED),
        ("by stall", ORANGE),
        ("by load", "yellow"),
        ("by host", "blue"),
        ("by unknown", "text"),
    ])
}
