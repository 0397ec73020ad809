//! Tables of the stalls in the selected time range.

use serde_json::json;

use crate::links::{ROW_TO_INSTANCE, ROW_TO_ROUTE, ROW_TO_STALLS};
use crate::panel::{Panel, link};

const IN_PROGRESS_TIME: &str = "sum by (method, route) \
    (clamp_max(tower_stall_in_progress_seconds{$instance} > 1, $__range_s)) / $__range_s";
const IN_PROGRESS_COUNT: &str =
    "count by (method, route) (tower_stall_in_progress_seconds{$instance} > 1)";
const IN_PROGRESS_MEAN: &str =
    "avg by (method, route) (tower_stall_in_progress_seconds{$instance} > 1)";

const BY_CAUSE: &str = "method, route, cause";

pub(crate) fn by_route() -> Panel {
    Panel::table(
        "Stalls by route and cause",
        "Stalls in the selected time range. Those in progress for more than a second have a row of \
        their own. Stall time per second: how many workers were inside these stalls on average; \
        0.25 is a quarter of one worker. Cause: cpu, the handler was computing; blocked, it was \
        waiting in a system call or for a lock; preempted and paused, the host delayed it. Click a \
        route to open its dashboard, which leads to the line of code. TASK unattributed is code \
        that is not instrumented.",
    )
    .label_column("method", "Method")
    .label_column("route", "Route")
    .label_column("cause", "Cause")
    .value_column(
        "Stall time per second",
        "none",
        &or_in_progress(&time(BY_CAUSE, "{$instance}"), IN_PROGRESS_TIME),
    )
    .value_column(
        "Stalls",
        "none",
        &or_in_progress(&count(BY_CAUSE, "{$instance}"), IN_PROGRESS_COUNT),
    )
    .value_column(
        "Mean duration",
        "s",
        &or_in_progress(&mean(BY_CAUSE, "{$instance}"), IN_PROGRESS_MEAN),
    )
    .gauge_column("Stall time per second", 4, 220)
    .override_field(
        "Stalls",
        &json!([{ "id": "decimals", "value": 0 }, { "id": "custom.width", "value": 80 }]),
    )
    .override_field("Mean duration", &json!([{ "id": "custom.width", "value": 130 }]))
    .override_field("Method", &json!([{ "id": "custom.width", "value": 80 }]))
    .override_field("Cause", &json!([{ "id": "custom.width", "value": 100 }]))
    .override_field(
        "Route",
        &json!([{ "id": "links", "value": [link("Open this route", ROW_TO_ROUTE)] }]),
    )
    .no_value("No stalls")
}

pub(crate) fn by_instance() -> Panel {
    Panel::table(
        "Stalls by instance",
        "Instances by the stall time of the selected routes. If one instance differs from the \
        others, the host or the clients of that instance are the likely cause. Click an instance \
        to open its dashboard, or its number of stalls to open its reports with their lines of \
        code, if the service shows them. Otherwise the reports are in the log of the instance.",
    )
    .label_column("job", "Job")
    .label_column("instance", "Instance")
    .value_column(
        "Stall time per second",
        "none",
        &format!("topk(20, {})", time("job, instance", "{$route}")),
    )
    .value_column("Stalls", "none", &count("job, instance", "{$route}"))
    .gauge_column("Stall time per second", 4, 220)
    .override_field(
        "Stalls",
        &json!([
            { "id": "decimals", "value": 0 },
            { "id": "custom.width", "value": 80 },
            { "id": "links", "value": [link("Reports with lines of code", ROW_TO_STALLS)] },
        ]),
    )
    .override_field(
        "Instance",
        &json!([{ "id": "links", "value": [link("Open this instance", ROW_TO_INSTANCE)] }]),
    )
    .no_value("No stalls")
}

/// Stall time per second: the mean number of workers inside stalls.
fn time(by: &str, selector: &str) -> String {
    let sum = in_range(&format!("tower_stall_duration_seconds_sum{selector}"));
    format!("sum by ({by}) ({sum}) / $__range_s > 0")
}

fn count(by: &str, selector: &str) -> String {
    let count = in_range(&format!("tower_stall_duration_seconds_count{selector}"));
    format!("sum by ({by}) ({count}) > 0")
}

fn mean(by: &str, selector: &str) -> String {
    let total = |part: &str| {
        let series = format!("tower_stall_duration_seconds_{part}{selector}");
        format!("sum by ({by}) ({})", in_range(&series))
    };
    format!("{}\n/\n({} > 0)", total("sum"), total("count"))
}

/// Adds the stalls in progress. They are in no histogram yet, and may be the worst of all.
fn or_in_progress(finished: &str, in_progress: &str) -> String {
    format!(
        r#"({finished})
or
label_replace({in_progress}, "cause", "in progress", "", "")"#
    )
}

/// Returns the increase of a series over the selected time range. A series that is younger than the
/// range began at 0, whatever its first scraped value: `increase` alone would lose the first stall
/// of each route.
fn in_range(series: &str) -> String {
    format!(
        "\n  ({series} unless {series} offset $__range)\n  or\n  increase({series}[$__range])\n"
    )
}
