//! The exporter's thread, which hangs if the recorder does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::Exporter;
use crate::state::MonitorState;

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
            if self.monitor.queue.take_flush() {
                self.contain(Exporter::flush);
            } else {
                std::thread::park();
            }
        }
        before_last();
        self.contain(Exporter::flush);
        self.contain(|exporter, _| exporter.close());
    }

    /// Calls into the recorder. A panic in it loses this hand-over, and is counted.
    fn contain(&mut self, call: impl FnOnce(&mut Exporter, &MonitorState)) {
        let Self { monitor, exporter } = self;
        if catch_unwind(AssertUnwindSafe(|| call(exporter, monitor))).is_err() {
            monitor.queue.count_dropped();
        }
    }
}
