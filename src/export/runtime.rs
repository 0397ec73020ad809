//! The series of one runtime, and of the watchdog itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use metrics::{Key, Label, Recorder, SharedString};
use tokio::runtime::RuntimeMetrics;

use super::catalogue as names;
use super::catalogue::Metric;
use super::gauges::{Combine, Gauges};
use super::pace::Pace;
use super::sent::{SentCount, SentSamples};
use crate::cells::Samples;
use crate::clock::Clock;
use crate::stacks::Outcome;
use crate::watch::LagTotals;

/// The numbers of the runtime and the watchdog at one moment.
#[derive(Debug)]
pub(super) struct RuntimeNow {
    pub(super) metrics: RuntimeMetrics,
    pub(super) lag: LagTotals,
    /// Workers that are inside a stall, with its age.
    pub(super) stalled: BTreeMap<usize, Duration>,
    pub(super) late: Samples,
    pub(super) counts: Counts,
}

/// Everything that is only counted.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) rescues: u64,
    pub(super) suppressed: u64,
    pub(super) overflowed: u64,
    pub(super) dropped: u64,
    pub(super) hook_panics: u64,
    pub(super) captures: [u64; Outcome::ALL.len()],
    pub(super) ticks: u64,
}

#[derive(Debug)]
pub(super) struct RuntimeSeries {
    workers: Key,
    workers_stalled: Key,
    alive_tasks: Key,
    global_queue_depth: Key,
    build_info: Key,
    busy: Vec<Busy>,
    busy_at: Instant,
    timer_lag: SentSamples,
    queue_lag: SentSamples,
    blocking_pool_delay: SentSamples,
    late: SentSamples,
    rescues: SentCount,
    suppressed: SentCount,
    overflowed: SentCount,
    dropped: SentCount,
    hook_panics: SentCount,
    captures: [SentCount; Outcome::ALL.len()],
    ticks: SentCount,
}

/// One worker's busy time.
#[derive(Debug)]
struct Busy {
    key: Key,
    total: Duration,
    ratio: f64,
}

// === impl RuntimeSeries ===

impl RuntimeSeries {
    /// Shorter intervals say more about the moment than about the worker.
    const BUSY_INTERVAL: Duration = Duration::from_millis(200);

    pub(super) fn new(runtime: &str, metrics: &RuntimeMetrics) -> Self {
        let runtime = Label::new("runtime", SharedString::from(runtime.to_owned()));
        let of_runtime = |metric: Metric| Key::from_parts(metric.name, vec![runtime.clone()]);
        let and = |metric: Metric, further: Label| Key::from_parts(metric.name, vec![runtime.clone(), further]);
        let probe = |probe| SentSamples::new(and(names::LAG, Label::from_static_parts("probe", probe)));
        let count = |metric: Metric| SentCount::new(Key::from_static_name(metric.name));
        let busy = |worker: usize| Busy {
            key: and(names::WORKER_BUSY, Label::new("worker", worker.to_string())),
            total: busy_duration(metrics, worker),
            ratio: 0.0,
        };
        let version = vec![Label::from_static_parts("version", env!("CARGO_PKG_VERSION"))];
        Self {
            workers: of_runtime(names::WORKERS),
            workers_stalled: of_runtime(names::WORKERS_STALLED),
            alive_tasks: of_runtime(names::ALIVE_TASKS),
            global_queue_depth: of_runtime(names::GLOBAL_QUEUE_DEPTH),
            build_info: Key::from_parts(names::BUILD_INFO.name, version),
            busy: (0..metrics.num_workers()).map(busy).collect(),
            busy_at: Instant::now(),
            timer_lag: probe("timer"),
            queue_lag: probe("queue"),
            blocking_pool_delay: SentSamples::new(of_runtime(names::BLOCKING_POOL_DELAY)),
            late: SentSamples::new(Key::from_static_name(names::WATCHDOG_LATE.name)),
            rescues: SentCount::new(of_runtime(names::RESCUES)),
            suppressed: count(names::REPORTS_SUPPRESSED),
            overflowed: count(names::ROUTES_OVERFLOWED),
            dropped: count(names::EVENTS_DROPPED),
            hook_panics: count(names::HOOK_PANICS),
            captures: Outcome::ALL.map(|outcome| {
                let result = vec![Label::from_static_parts("result", outcome.as_str())];
                SentCount::new(Key::from_parts(names::STACK_CAPTURES.name, result))
            }),
            ticks: count(names::WATCHDOG_TICKS),
        }
    }

    pub(super) fn send(&mut self, recorder: &dyn Recorder, clock: &Clock, gauges: &mut Gauges, now: &RuntimeNow) {
        self.send_gauges(recorder, gauges, now);
        self.send_busy(recorder, gauges, now);
        let pace = &mut Pace::unlimited();
        self.timer_lag.send(recorder, clock, pace, &now.lag.timer);
        self.queue_lag.send(recorder, clock, pace, &now.lag.queue);
        self.blocking_pool_delay.send(recorder, clock, pace, &now.lag.blocking_pool);
        self.late.send(recorder, clock, pace, &now.late);
        self.rescues.send(recorder, now.counts.rescues);
        self.suppressed.send(recorder, now.counts.suppressed);
        self.overflowed.send(recorder, now.counts.overflowed);
        self.dropped.send(recorder, now.counts.dropped);
        self.hook_panics.send(recorder, now.counts.hook_panics);
        for (sent, &total) in self.captures.iter_mut().zip(&now.counts.captures) {
            sent.send(recorder, total);
        }
        self.ticks.send(recorder, now.counts.ticks);
    }

    fn send_gauges(&self, recorder: &dyn Recorder, gauges: &mut Gauges, now: &RuntimeNow) {
        let values = [
            (&self.workers, now.metrics.num_workers()),
            (&self.workers_stalled, now.stalled.len()),
            (&self.alive_tasks, now.metrics.num_alive_tasks()),
            (&self.global_queue_depth, now.metrics.global_queue_depth()),
            (&self.build_info, 1),
        ];
        for (key, value) in values {
            gauges.set(recorder, key, Combine::Max, value as f64);
        }
    }

    fn send_busy(&mut self, recorder: &dyn Recorder, gauges: &mut Gauges, now: &RuntimeNow) {
        let interval = self.busy_at.elapsed();
        if interval >= Self::BUSY_INTERVAL {
            self.busy_at = Instant::now();
            for (worker, busy) in self.busy.iter_mut().enumerate() {
                let age = now.stalled.get(&worker).copied().unwrap_or_default();
                busy.advance(busy_duration(&now.metrics, worker), age, interval);
            }
        }
        for busy in &self.busy {
            gauges.set(recorder, &busy.key, Combine::Max, busy.ratio);
        }
    }
}

// === impl Busy ===

impl Busy {
    /// tokio adds a poll's time when the worker next parks: during a stall it tells of none, and after it of all at once. So the
    /// stall's own age fills in, and what comes after it is cut.
    fn advance(&mut self, total: Duration, stalled_for: Duration, interval: Duration) {
        let told = total.saturating_sub(self.total);
        self.total = total;
        let busy = told.max(stalled_for.min(interval));
        self.ratio = (busy.as_secs_f64() / interval.as_secs_f64()).min(1.0);
    }
}

#[cfg(target_has_atomic = "64")]
fn busy_duration(metrics: &RuntimeMetrics, worker: usize) -> Duration {
    metrics.worker_total_busy_duration(worker)
}

#[cfg(not(target_has_atomic = "64"))]
fn busy_duration(_: &RuntimeMetrics, _: usize) -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stalled_worker_is_busy_while_it_lasts_and_never_more_than_that() {
        let seconds = Duration::from_secs;
        let mut busy = Busy { key: Key::from_name("test"), total: seconds(5), ratio: 0.0 };
        busy.advance(seconds(5), seconds(0), seconds(1));
        assert_eq!(busy.ratio, 0.0);
        busy.advance(seconds(5), seconds(3), seconds(1));
        assert_eq!(busy.ratio, 1.0);
        busy.advance(seconds(15), seconds(0), seconds(1));
        assert_eq!(busy.ratio, 1.0);
        busy.advance(seconds(15), Duration::from_millis(250), seconds(1));
        assert_eq!(busy.ratio, 0.25);
    }
}
