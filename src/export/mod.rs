//! The only module, with `prometheus`, that uses `metrics`: hands over what the threads have counted
//! to the process-wide recorder.

mod busy_ratio;
mod delta;
mod descriptions;
mod export_loop;
mod flush;
mod gauges;
mod oldest_requests;
mod oldest_stalls;
mod pace;
mod route;
mod routes;
mod runtime;
mod sample_budget;
#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::Recorder;

#[cfg(feature = "prometheus")]
pub(crate) use self::descriptions::seconds_counters;
#[cfg(feature = "prometheus")]
pub(crate) use self::sample_budget::set_recorder_drains;

pub(crate) use self::export_loop::ExportLoop;

use self::flush::{Flush, FullFlushes};
use self::gauges::Gauges;
use self::oldest_requests::OldestRequests;
use self::oldest_stalls::OldestStalls;
use self::pace::Pace;
use self::routes::RoutesExporter;
use self::runtime::{MonitorCounts, RuntimeSeries, RuntimeSnapshot};
use crate::os::thread_cpu_time;
use crate::state::MonitorState;
use crate::watchdog::{Lag, WatchdogStats};

/// Hands over the counters of one monitor.
#[derive(Debug)]
pub(crate) struct Exporter {
    lag: Arc<Lag>,
    stats: Arc<WatchdogStats>,
    runtime: RuntimeSeries,
    routes: RoutesExporter,
    oldest_requests: OldestRequests,
    gauges: Gauges,
    pace: Pace,
    full_flushes: FullFlushes,
}

// === impl Exporter ===

impl Exporter {
    pub(crate) fn new(monitor: &MonitorState, lag: Arc<Lag>, stats: Arc<WatchdogStats>) -> Self {
        Self {
            lag,
            stats,
            runtime: RuntimeSeries::new(&monitor.runtime_name, &monitor.runtime.metrics()),
            routes: RoutesExporter::new(),
            oldest_requests: OldestRequests::default(),
            gauges: Gauges::new(),
            pace: Pace::default(),
            full_flushes: FullFlushes::default(),
        }
    }

    /// Hands over what has changed since the last flush, to the recorder that is installed now: of
    /// all routes at its [`Pace`].
    pub(crate) fn flush(&mut self, monitor: &MonitorState) {
        metrics::with_recorder(|recorder| self.flush_to(recorder, monitor));
    }

    /// Hands over everything that has changed, however recent the last flush is.
    pub(crate) fn flush_all(&mut self, monitor: &MonitorState) {
        self.pace.reset();
        self.flush(monitor);
    }

    /// Withdraws the gauges, which will not be updated any more.
    pub(crate) fn close(&mut self) {
        metrics::with_recorder(|recorder| self.gauges.withdraw(recorder));
    }

    fn flush_to(&mut self, recorder: &dyn Recorder, monitor: &MonitorState) {
        let (now, cpu_time) = (Instant::now(), thread_cpu_time());
        let is_of_all_routes = self.pace.is_due(now);
        let is_full = self.full_flushes.take_due(recorder, now, is_of_all_routes);
        self.hand_over(
            Flush { recorder, clock: &monitor.clock, is_full },
            is_of_all_routes,
            monitor,
        );
        if is_of_all_routes {
            let cpu_time =
                thread_cpu_time().zip(cpu_time).map(|(end, start)| end.saturating_sub(start));
            self.pace.record(now, cpu_time.unwrap_or_else(|| now.elapsed()));
        }
    }

    /// Nothing shows a stall that has ended as one in progress, neither what is handed over nor a
    /// scrape in the middle: the counters are read before the gauges, and handed over after them.
    fn hand_over(&mut self, flush: Flush<'_>, is_of_all_routes: bool, monitor: &MonitorState) {
        if flush.is_full {
            descriptions::describe(flush.recorder);
        }
        self.routes.read(monitor, is_of_all_routes);
        let counts = self.counts(monitor);
        let stalls = OldestStalls::now(monitor);
        self.oldest_requests.update(monitor);
        let requests = &self.oldest_requests;
        self.routes.assign_rows(monitor, &stalls, requests);
        self.routes.send_gauges(&flush, &mut self.gauges, monitor, &stalls, requests);
        let snapshot = self.runtime_snapshot(monitor, counts, stalls.by_worker);
        self.runtime.send(&flush, &mut self.gauges, &snapshot);
        self.routes.send(&flush, monitor);
    }

    fn counts(&self, monitor: &MonitorState) -> MonitorCounts {
        let (suppressed, hook_panics) = {
            let history = monitor.history.lock();
            (history.suppressed, history.hook_panics)
        };
        MonitorCounts {
            rescues: monitor.queue.rescues(),
            suppressed,
            overflowed: monitor.routes.overflowed(),
            dropped: monitor.queue.dropped(),
            hook_panics,
            captures: monitor.capture_pool.counts(),
            scans: self.stats.scans(),
        }
    }

    fn runtime_snapshot(
        &self,
        monitor: &MonitorState,
        counts: MonitorCounts,
        stalled_workers: BTreeMap<usize, Duration>,
    ) -> RuntimeSnapshot {
        RuntimeSnapshot {
            metrics: monitor.runtime.metrics(),
            has_ended: monitor.runtime_ended.is_set(),
            lag: self.lag.snapshot(),
            stalled_workers,
            watchdog_late: self.stats.late(),
            counts,
        }
    }
}
