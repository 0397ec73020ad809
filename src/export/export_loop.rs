//! The exporter's thread, which hangs if the recorder does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use super::Exporter;
use crate::state::{MonitorState, Notice};

/// Hands over the counters whenever that is requested.
pub(crate) struct ExportLoop {
    monitor: Arc<MonitorState>,
    exporter: Exporter,
}

impl ExportLoop {
    pub(crate) fn new(monitor: Arc<MonitorState>, exporter: Exporter) -> Self {
        Self { monitor, exporter }
    }

    /// Runs until the reporter has finished; then hands over everything once more, after
    /// `before_last`, and withdraws the gauges.
    pub(crate) fn run(mut self, before_last: impl FnOnce()) {
        while !self.monitor.queue.is_finished() {
            if self.monitor.blocking_pool_permit.is_requested() {
                self.try_thread();
            }
            if self.monitor.queue.take_flush() {
                self.contain(Exporter::flush);
            } else {
                thread::park();
            }
        }
        before_last();
        self.contain(Exporter::flush_all);
        self.contain(|exporter, _| exporter.close());
    }

    /// Starts a thread on trial, so that the probe of the blocking pool does not.
    fn try_thread(&self) {
        let is_started = thread::Builder::new()
            .name("tower-stall-trial".into())
            .spawn(|| ())
            .is_ok_and(|trial| trial.join().is_ok());
        if is_started {
            self.monitor.blocking_pool_permit.grant();
        } else {
            self.monitor.queue.push_notice(Notice::NoThread);
        }
    }

    /// Calls into the recorder. A panic in it loses this hand-over, and is counted.
    fn contain(&mut self, call: impl FnOnce(&mut Exporter, &MonitorState)) {
        let Self { monitor, exporter } = self;
        if catch_unwind(AssertUnwindSafe(|| call(exporter, monitor))).is_err() {
            monitor.queue.count_dropped();
        }
    }
}
