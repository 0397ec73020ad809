//! The series of one runtime, and those of the monitor itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use metrics::{Key, Label, SharedString};
use tokio::runtime::RuntimeMetrics;

use super::busy_ratio::BusyRatio;
use super::delta::{CounterDelta, HistogramDelta};
use super::descriptions::{self, Metric};
use super::flush::Flush;
use super::gauges::{Aggregation, Gauges};
use super::sample_budget::SampleQuota;
use crate::shard::HistogramSnapshot;
use crate::stacks::CapturePool;
use crate::watchdog::LagSnapshot;

/// The values of the runtime and of the monitor at one moment.
#[derive(Debug)]
pub(super) struct RuntimeSnapshot {
    pub(super) metrics: RuntimeMetrics,
    pub(super) has_ended: bool,
    pub(super) lag: LagSnapshot,
    /// The workers that are inside a stall, with its age.
    pub(super) stalled_workers: BTreeMap<usize, Duration>,
    pub(super) watchdog_late: HistogramSnapshot,
    pub(super) counts: MonitorCounts,
}

#[derive(Debug)]
pub(super) struct MonitorCounts {
    pub(super) rescues: u64,
    pub(super) suppressed: u64,
    pub(super) overflowed: u64,
    pub(super) dropped: u64,
    pub(super) hook_panics: u64,
    pub(super) captures: [u64; CapturePool::RESULTS],
    pub(super) scans: u64,
}

#[derive(Debug)]
pub(super) struct RuntimeSeries {
    workers: Key,
    workers_stalled: Key,
    alive_tasks: Key,
    global_queue_depth: Key,
    build_info: Key,
    worker_busy: Vec<(Key, BusyRatio)>,
    worker_busy_at: Instant,
    timer_lag: HistogramDelta,
    queue_lag: HistogramDelta,
    blocking_pool_delay: HistogramDelta,
    watchdog_late: HistogramDelta,
    rescues: CounterDelta,
    suppressed: CounterDelta,
    overflowed: CounterDelta,
    dropped: CounterDelta,
    hook_panics: CounterDelta,
    captures: [CounterDelta; CapturePool::RESULTS],
    scans: CounterDelta,
}

impl RuntimeSeries {
    /// Shorter intervals are too noisy.
    const BUSY_INTERVAL: Duration = Duration::from_millis(200);

    pub(super) fn new(runtime: &str, metrics: &RuntimeMetrics) -> Self {
        let runtime = Label::new("runtime", SharedString::from(runtime.to_owned()));
        let key = |metric: Metric| Key::from_parts(metric.name, vec![runtime.clone()]);
        let labeled = |metric: Metric, label: Label| {
            Key::from_parts(metric.name, vec![runtime.clone(), label])
        };
        let lag = |probe| {
            let probe = Label::from_static_parts("probe", probe);
            HistogramDelta::new(labeled(descriptions::LAG, probe))
        };
        let counter = |metric: Metric| CounterDelta::new(Key::from_static_name(metric.name));
        let worker_busy = |worker: usize| {
            let label = Label::new("worker", worker.to_string());
            (labeled(descriptions::WORKER_BUSY, label), BusyRatio::new(metrics, worker))
        };
        let version = vec![Label::from_static_parts("version", env!("CARGO_PKG_VERSION"))];
        Self {
            workers: key(descriptions::WORKERS),
            workers_stalled: key(descriptions::WORKERS_STALLED),
            alive_tasks: key(descriptions::ALIVE_TASKS),
            global_queue_depth: key(descriptions::GLOBAL_QUEUE_DEPTH),
            build_info: Key::from_parts(descriptions::BUILD_INFO.name, version),
            worker_busy: (0..metrics.num_workers()).map(worker_busy).collect(),
            worker_busy_at: Instant::now(),
            timer_lag: lag("timer"),
            queue_lag: lag("queue"),
            blocking_pool_delay: HistogramDelta::new(key(descriptions::BLOCKING_POOL_DELAY)),
            watchdog_late: HistogramDelta::new(Key::from_static_name(
                descriptions::WATCHDOG_LATE.name,
            )),
            rescues: CounterDelta::new(key(descriptions::RESCUES)),
            suppressed: counter(descriptions::REPORTS_SUPPRESSED),
            overflowed: counter(descriptions::ROUTES_OVERFLOWED),
            dropped: counter(descriptions::EVENTS_DROPPED),
            hook_panics: counter(descriptions::HOOK_PANICS),
            captures: CapturePool::labels().map(|result| {
                let result = vec![Label::from_static_parts("result", result)];
                CounterDelta::new(Key::from_parts(descriptions::STACK_CAPTURES.name, result))
            }),
            scans: counter(descriptions::WATCHDOG_TICKS),
        }
    }

    pub(super) fn send(
        &mut self,
        flush: &Flush<'_>,
        gauges: &mut Gauges,
        snapshot: &RuntimeSnapshot,
    ) {
        self.send_gauges(flush, gauges, snapshot);
        self.send_busy_ratios(flush, gauges, snapshot);
        self.send_histograms(flush, snapshot);
        self.send_counters(flush, &snapshot.counts);
    }

    fn send_gauges(&self, flush: &Flush<'_>, gauges: &mut Gauges, snapshot: &RuntimeSnapshot) {
        let values = [
            (&self.workers, snapshot.metrics.num_workers()),
            (&self.workers_stalled, snapshot.stalled_workers.len()),
            (&self.alive_tasks, snapshot.metrics.num_alive_tasks()),
            (&self.global_queue_depth, snapshot.metrics.global_queue_depth()),
            (&self.build_info, 1),
        ];
        for (key, value) in values {
            gauges.set(flush, key, Aggregation::Max, value as f64);
        }
    }

    fn send_busy_ratios(
        &mut self,
        flush: &Flush<'_>,
        gauges: &mut Gauges,
        snapshot: &RuntimeSnapshot,
    ) {
        if self.worker_busy_at.elapsed() >= Self::BUSY_INTERVAL {
            self.worker_busy_at = Instant::now();
            for (worker, (_, busy)) in self.worker_busy.iter_mut().enumerate() {
                busy.update(&snapshot.metrics, worker, snapshot.has_ended);
            }
        }
        for (key, busy) in &self.worker_busy {
            gauges.set(flush, key, Aggregation::Max, busy.get());
        }
    }

    fn send_histograms(&mut self, flush: &Flush<'_>, snapshot: &RuntimeSnapshot) {
        let lag = &snapshot.lag;
        for (delta, total) in [
            (&mut self.timer_lag, &lag.timer),
            (&mut self.queue_lag, &lag.queue),
            (&mut self.blocking_pool_delay, &lag.blocking_pool),
            (&mut self.watchdog_late, &snapshot.watchdog_late),
        ] {
            delta.send(flush, SampleQuota::unlimited(), total);
        }
    }

    fn send_counters(&mut self, flush: &Flush<'_>, counts: &MonitorCounts) {
        for (delta, total) in [
            (&mut self.rescues, counts.rescues),
            (&mut self.suppressed, counts.suppressed),
            (&mut self.overflowed, counts.overflowed),
            (&mut self.dropped, counts.dropped),
            (&mut self.hook_panics, counts.hook_panics),
            (&mut self.scans, counts.scans),
        ] {
            delta.send(flush, total);
        }
        for (delta, &total) in self.captures.iter_mut().zip(&counts.captures) {
            delta.send(flush, total);
        }
    }
}
