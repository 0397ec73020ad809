//! Every metric: its name, kind, unit and description. The documentation and the dashboards are
//! checked against this list.

use metrics::{KeyName, Level, Metadata, Recorder, SharedString, Unit};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetricKind {
    Counter,
    /// A counter of seconds. Counters of the facade are integers, so a recorder receives it as a
    /// gauge that is only incremented.
    SecondsCounter,
    Gauge,
    Histogram,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    kind: MetricKind,
    unit: Option<Unit>,
    help: &'static str,
}

macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal $unit:expr, $help:literal;)*) => {
        $(pub(super) const $id: Metric = Metric {
            name: concat!("tower_stall_", $name),
            kind: MetricKind::$kind,
            unit: $unit,
            help: $help,
        };)*
        const ALL: &[Metric] = &[$($id),*];
    };
}

const SECONDS: Option<Unit> = Some(Unit::Seconds);

metrics! {
    POLL_DURATION: Histogram "poll_duration_seconds" SECONDS,
        "Duration of every poll, by phase.";
    SCHEDULE_LATENCY: Histogram "schedule_delay_seconds" SECONDS,
        "Schedule latency of requests: from a wake to the next poll.";
    SOCKET_WAIT: Histogram "socket_wait_seconds" SECONDS,
        "From the arrival of a request's bytes at the host to the server's read of them.";
    REQUEST_DURATION: Histogram "request_duration_seconds" SECONDS,
        "From the call to the end of the response body, or to the drop.";
    REQUEST_BUSY: Histogram "request_busy_seconds" SECONDS,
        "Sum of the durations of a request's polls.";
    REQUESTS: Counter "requests_total" None,
        "Requests that have ended, by outcome.";
    HANDED_OFF: Counter "handed_off_polls_total" None,
        "Polls over the stall threshold that called block_in_place and handed off their worker.";
    OFF_WORKER: Counter "off_worker_polls_total" None,
        "Polls over the stall threshold on threads that are not workers; they delay no other task.";
    IN_FLIGHT: Gauge "requests_in_flight" None,
        "Requests between the call and the end of the response body.";
    OLDEST_REQUEST: Gauge "oldest_request_seconds" SECONDS,
        "Age of the oldest last poll of a request in flight, if over a second; 0 if none.";
    STALLS: Histogram "duration_seconds" SECONDS,
        "Duration of stalls that have ended, by cause.";
    STALLED: SecondsCounter "stalled_seconds_total" SECONDS,
        "Where the time of stalls that have ended went: on-CPU, off-CPU, run queue, stopped.";
    DELAY_CAUSED: SecondsCounter "delay_caused_seconds_total" SECONDS,
        "Delay of other requests that polls of this route have caused.";
    DELAY_SUFFERED: SecondsCounter "delay_suffered_seconds_total" SECONDS,
        "Delay of this route's requests, by what delayed them: stall, load, host, unknown.";
    IN_PROGRESS: Gauge "in_progress_seconds" SECONDS,
        "Age of the oldest stall in progress; 0 if none.";
    WORKERS: Gauge "workers" None,
        "Worker threads of the runtime.";
    WORKERS_STALLED: Gauge "workers_stalled" None,
        "Worker threads of the runtime that are inside a stall.";
    WORKER_BUSY: Gauge "worker_busy_ratio" None,
        "Share of the last interval in which the worker was busy.";
    LAG: Histogram "lag_seconds" SECONDS,
        "How late the runtime ran what was ready, by probe; corrected for coordinated omission.";
    BLOCKING_POOL_DELAY: Histogram "blocking_pool_delay_seconds" SECONDS,
        "From spawn_blocking to the start of the closure.";
    ALIVE_TASKS: Gauge "alive_tasks" None,
        "Number of alive tasks in the runtime.";
    GLOBAL_QUEUE_DEPTH: Gauge "global_queue_depth" None,
        "Number of tasks in the runtime's global queue.";
    RESCUES: Counter "rescues_total" None,
        "Stalls that starved the I/O driver and were resolved by waking another worker.";
    STACK_CAPTURES: Counter "stack_captures_total" None,
        "Attempts to capture the stack of a stalled thread, by result.";
    REPORTS_SUPPRESSED: Counter "reports_suppressed_total" None,
        "Reports suppressed by rate limiting.";
    ROUTES_OVERFLOWED: Counter "routes_overflowed_total" None,
        "Requests counted under the route overflow.";
    EVENTS_DROPPED: Counter "events_dropped_total" None,
        "Reports lost because the queue was full, or because a subscriber or recorder panicked.";
    HOOK_PANICS: Counter "hook_panics_total" None,
        "Panics of the on_stall hook.";
    WATCHDOG_TICKS: Counter "watchdog_ticks_total" None,
        "Watchdog scans; at least one per second.";
    WATCHDOG_LATE: Histogram "watchdog_late_seconds" SECONDS,
        "Wake-up delay of the watchdog thread; caused by the host, not by handlers.";
    BUILD_INFO: Gauge "build_info" None,
        "1, labeled with the version of tower-stall.";
}

/// Returns the names of the counters that a recorder receives as gauges.
#[cfg(feature = "prometheus")]
pub(crate) fn seconds_counters() -> impl Iterator<Item = &'static str> {
    let counters = ALL.iter().filter(|metric| metric.kind == MetricKind::SecondsCounter);
    counters.map(|metric| metric.name)
}

/// The origin of the metrics, for recorders that filter by it.
pub(super) static METADATA: Metadata<'static> =
    Metadata::new("tower_stall", Level::INFO, Some("tower_stall"));

/// Describes all metrics to a recorder.
pub(super) fn describe(recorder: &dyn Recorder) {
    for metric in ALL {
        let name = KeyName::from_const_str(metric.name);
        let help = SharedString::const_str(metric.help);
        match metric.kind {
            MetricKind::Counter => recorder.describe_counter(name, metric.unit, help),
            MetricKind::Gauge | MetricKind::SecondsCounter => {
                recorder.describe_gauge(name, metric.unit, help);
            }
            MetricKind::Histogram => recorder.describe_histogram(name, metric.unit, help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        for metric in ALL {
            let (name, kind) = (metric.name, metric.kind);
            let is_counter = matches!(kind, MetricKind::Counter | MetricKind::SecondsCounter);
            assert_eq!(name.ends_with("_total"), is_counter, "{name}");
            let quantity = name.trim_end_matches("_total");
            assert_eq!(quantity.ends_with("_seconds"), metric.unit == SECONDS, "{name}");
            assert!(kind != MetricKind::SecondsCounter || metric.unit == SECONDS, "{name}");
            assert!(kind != MetricKind::Histogram || metric.unit == SECONDS, "{name}");
            assert!(metric.help.ends_with('.'), "{name}");
        }
    }

    #[test]
    fn the_documentation_lists_each_metric_and_no_other() {
        let docs = include_str!("../docs/metrics.md");
        for metric in ALL {
            let is_listed = docs.contains(&format!("`{}`", metric.name));
            assert!(is_listed, "docs/metrics.md does not list {}", metric.name);
        }
        for name in docs.split('`').filter(|word| word.starts_with("tower_stall_")) {
            let exists = ALL.iter().any(|metric| metric.name == name);
            assert!(exists, "docs/metrics.md lists {name}, which does not exist");
        }
    }
}
