//! What stalls stole in the time shown, as tables.

use serde_json::json;

use crate::links::{ROW_TO_INSTANCE, ROW_TO_ROUTE, ROW_TO_STALLS};
use crate::panel::{Panel, link};

const IN_PROGRESS_STOLEN: &str =
    "sum by (method, route) (clamp_max(tower_stall_in_progress_seconds{$instance} > 1, $__range_s)) / $__range_s";
const IN_PROGRESS_STALLS: &str = "count by (method, route) (tower_stall_in_progress_seconds{$instance} > 1)";
const IN_PROGRESS_LENGTH: &str = "avg by (method, route) (tower_stall_in_progress_seconds{$instance} > 1)";

/// The culprits.
pub(crate) fn by_route() -> Panel {
    Panel::table(
        "Who holds the workers",
        "Stalls of the time shown, by route and cause, and apart from them those that have been going on for more than a second. Stolen per second: how many workers were held on average, so that 0.25 is \
        a quarter of one. Causes: cpu, it was computing; blocked, it slept in a system call or on a lock; preempted and paused are the machine's \
        fault. A click on a route opens its dashboard, from where the way leads to the line of code. TASK unattributed is what nobody measures.",
    )
    .label("method", "Method")
    .label("route", "Route")
    .label("cause", "Cause")
    .column("Stolen per second", "none", &or_in_progress(&stolen("method, route, cause", "{$instance}"), IN_PROGRESS_STOLEN))
    .column("Stalls", "none", &or_in_progress(&stalls("method, route, cause", "{$instance}"), IN_PROGRESS_STALLS))
    .column("Length", "s", &or_in_progress(&length("method, route, cause", "{$instance}"), IN_PROGRESS_LENGTH))
    .gauge("Stolen per second", 4, 220)
    .with("Stalls", &json!([{ "id": "decimals", "value": 0 }, { "id": "custom.width", "value": 80 }]))
    .with("Length", &json!([{ "id": "custom.width", "value": 110 }]))
    .with("Method", &json!([{ "id": "custom.width", "value": 80 }]))
    .with("Cause", &json!([{ "id": "custom.width", "value": 100 }]))
    .with("Route", &json!([{ "id": "links", "value": [link("Open this route", ROW_TO_ROUTE)] }]))
    .nothing("No stalls")
}

/// Where the routes chosen stalled.
pub(crate) fn by_instance() -> Panel {
    Panel::table(
        "Where it stalls",
        "Instances by what the routes chosen stole there in the time shown. If one stands out, it is that machine or its clients. A click on the \
        instance opens its dashboard; one on the number of stalls its reports with their lines of code, where the service shows them. Else \
        they are in its log.",
    )
    .label("job", "Job")
    .label("instance", "Instance")
    .column("Stolen per second", "none", &format!("topk(20, {})", stolen("job, instance", "{$route}")))
    .column("Stalls", "none", &stalls("job, instance", "{$route}"))
    .gauge("Stolen per second", 4, 220)
    .with(
        "Stalls",
        &json!([
            { "id": "decimals", "value": 0 },
            { "id": "custom.width", "value": 80 },
            { "id": "links", "value": [link("Its stalls, with their lines of code", ROW_TO_STALLS)] },
        ]),
    )
    .with("Instance", &json!([{ "id": "links", "value": [link("Open this instance", ROW_TO_INSTANCE)] }]))
    .nothing("No stalls")
}

fn stolen(by: &str, chosen: &str) -> String {
    format!("sum by ({by}) ({}) / $__range_s > 0", in_range(&format!("tower_stall_duration_seconds_sum{chosen}")))
}

fn stalls(by: &str, chosen: &str) -> String {
    format!("sum by ({by}) ({}) > 0", in_range(&format!("tower_stall_duration_seconds_count{chosen}")))
}

/// A stall that goes on is in no histogram yet, and may be the worst of all.
fn or_in_progress(finished: &str, in_progress: &str) -> String {
    format!(
        r#"({finished})
or
label_replace({in_progress}, "cause", "in progress", "", "")"#
    )
}

/// Of those in the time shown, the mean.
fn length(by: &str, chosen: &str) -> String {
    let sum =
        |part: &str| format!("sum by ({by}) ({})", in_range(&format!("tower_stall_duration_seconds_{part}{chosen}")));
    format!("{}\n/\n({} > 0)", sum("sum"), sum("count"))
}

/// What was added to a series in the time shown. One that is younger began at 0, whatever it was first seen with: `increase` alone would
/// lose each route's first stall.
fn in_range(series: &str) -> String {
    format!("\n  ({series} unless {series} offset $__range)\n  or\n  increase({series}[$__range])\n")
}
