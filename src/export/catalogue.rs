//! Every metric: its name, kind, unit and meaning. Docs and dashboards are checked against this list.

use metrics::{KeyName, Level, Metadata, Recorder, SharedString, Unit};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    unit: Option<Unit>,
    help: &'static str,
}

macro_rules! catalogue {
    ($($id:ident: $kind:ident $name:literal $unit:expr, $help:literal;)*) => {
        $(pub(crate) const $id: Metric =
            Metric { name: concat!("tower_stall_", $name), kind: Kind::$kind, unit: $unit, help: $help };)*
        pub(crate) const ALL: &[Metric] = &[$($id),*];
    };
}

const SECONDS: Option<Unit> = Some(Unit::Seconds);

catalogue! {
    POLL_DURATION: Histogram "poll_duration_seconds" SECONDS,
        "How long polls of requests took, by phase.";
    SCHEDULE_DELAY: Histogram "schedule_delay_seconds" SECONDS,
        "How long requests that had been woken waited for their next poll.";
    REQUEST_DURATION: Histogram "request_duration_seconds" SECONDS,
        "From the call to the end of the body, or to the drop.";
    REQUEST_BUSY: Histogram "request_busy_seconds" SECONDS,
        "Sum of a request's polls.";
    REQUESTS: Counter "requests_total" None,
        "Requests that are over, by outcome.";
    HANDED_OFF: Counter "handed_off_polls_total" None,
        "Polls longer than the threshold that gave their worker away by block_in_place.";
    IN_FLIGHT: Gauge "requests_in_flight" None,
        "Requests between their call and the end of their body.";
    STALLS: Histogram "duration_seconds" SECONDS,
        "Finished stalls: the sum is the worker time they stole, the count how many there were.";
    IN_PROGRESS: Gauge "in_progress_seconds" SECONDS,
        "Age of the oldest stall going on now, 0 when there is none.";
    WORKERS: Gauge "workers" None,
        "Worker threads of the runtime.";
    WORKERS_STALLED: Gauge "workers_stalled" None,
        "Worker threads of the runtime that are inside a stall now.";
    WORKER_BUSY: Gauge "worker_busy_ratio" None,
        "Share of the last interval in which the worker was not waiting for something to do.";
    LAG: Histogram "lag_seconds" SECONDS,
        "How late the runtime ran what was ready, by probe; probes missed in a stall are filled in.";
    BLOCKING_POOL_DELAY: Histogram "blocking_pool_delay_seconds" SECONDS,
        "From spawn_blocking to the start.";
    ALIVE_TASKS: Gauge "alive_tasks" None,
        "Tasks that the runtime has.";
    GLOBAL_QUEUE_DEPTH: Gauge "global_queue_depth" None,
        "Tasks that wait in the runtime's shared queue.";
    RESCUES: Counter "rescues_total" None,
        "Stalls during which timers and I/O stood still until a nudge woke another worker.";
    STACK_CAPTURES: Counter "stack_captures_total" None,
        "Attempts to take the stack of a stalled thread, by result.";
    REPORTS_SUPPRESSED: Counter "reports_suppressed_total" None,
        "Reports left out because their culprit had written enough.";
    ROUTES_OVERFLOWED: Counter "routes_overflowed_total" None,
        "Requests counted under the route overflow.";
    EVENTS_DROPPED: Counter "events_dropped_total" None,
        "Stalls that were counted but could not be told of, as the reporter did not keep up.";
    HOOK_PANICS: Counter "hook_panics_total" None,
        "Panics of the on_stall hook.";
    WATCHDOG_TICKS: Counter "watchdog_ticks_total" None,
        "Looks of the watchdog at the threads: at least one a second.";
    WATCHDOG_LATE: Histogram "watchdog_late_seconds" SECONDS,
        "How late the watchdog itself was woken: the machine's doing, not the handlers'.";
    BUILD_INFO: Gauge "build_info" None,
        "1, with the version of tower-stall.";
}

/// What a recorder is told about where a metric comes from.
pub(super) static METADATA: Metadata<'static> = Metadata::new("tower_stall", Level::INFO, Some("tower_stall"));

/// Tells a recorder what all metrics mean.
pub(super) fn describe(recorder: &dyn Recorder) {
    for metric in ALL {
        let (name, help) = (KeyName::from_const_str(metric.name), SharedString::const_str(metric.help));
        match metric.kind {
            Kind::Counter => recorder.describe_counter(name, metric.unit, help),
            Kind::Gauge => recorder.describe_gauge(name, metric.unit, help),
            Kind::Histogram => recorder.describe_histogram(name, metric.unit, help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        for metric in ALL {
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert_eq!(metric.name.ends_with("_seconds"), metric.unit == SECONDS, "{}", metric.name);
            assert!(metric.kind != Kind::Histogram || metric.unit == SECONDS, "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }

    #[test]
    fn the_docs_tell_of_each_metric() {
        let docs = include_str!("../docs/metrics.md");
        for metric in ALL {
            assert!(docs.contains(&format!("`{}`", metric.name)), "docs/metrics.md lacks {}", metric.name);
        }
        for name in docs.split('`').filter(|word| word.starts_with("tower_stall_")) {
            assert!(ALL.iter().any(|metric| metric.name == name), "docs/metrics.md has {name}, which does not exist");
        }
    }
}
