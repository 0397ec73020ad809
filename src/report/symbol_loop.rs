//! The symbolizer's thread. It may be slow: the first stack reads the debug information of the
//! program.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::blocking_pool;
use super::log::Log;
use super::outputs::Outputs;
use crate::stacks::{Capture, CaptureFailure, SymbolizedStack, Symbolizer};
use crate::state::{MonitorState, StackSample};
use crate::text::clean;

pub(crate) struct SymbolLoop {
    monitor: Arc<MonitorState>,
    symbolizer: Symbolizer,
    log: Arc<Log>,
}

impl SymbolLoop {
    pub(crate) fn new(monitor: Arc<MonitorState>, outputs: &Outputs) -> Self {
        Self { monitor, symbolizer: Symbolizer::new(), log: Arc::clone(&outputs.log) }
    }

    /// Runs until the queue is closed.
    pub(crate) fn run(mut self) {
        loop {
            // Read before the work: the watchdog has ended then, and captures nothing more.
            let is_closed = self.monitor.queue.is_closed();
            while let Some(capture) = self.monitor.capture_pool.next() {
                self.symbolize(capture);
            }
            blocking_pool::report_if_due(&self.monitor, &mut self.symbolizer, &self.log);
            if is_closed {
                return;
            }
            std::thread::park();
        }
    }

    /// Symbolizes a captured stack, and tells the reporter.
    fn symbolize(&mut self, capture: Capture) {
        let symbolizer = &mut self.symbolizer;
        let result = catch_unwind(AssertUnwindSafe(|| symbolizer.symbolize(&capture)));
        let symbolized = result.unwrap_or_else(|_| {
            // Its caches may be inconsistent.
            self.symbolizer = Symbolizer::new();
            Err(CaptureFailure::Inconsistent)
        });
        let failure = symbolized.as_ref().map_or_else(|failure| Some(*failure), |it| it.missing);
        let pool = &self.monitor.capture_pool;
        pool.count(failure.map_or(Ok(()), Err));
        if let Some(failure) = failure {
            self.monitor.set_capture_failure(capture.request.id, failure);
        }
        if let Ok(stack) = symbolized {
            self.add_sample(&capture, stack);
        }
        pool.finish(capture);
        self.monitor.queue.notify();
    }

    fn add_sample(&self, capture: &Capture, stack: SymbolizedStack) {
        let (monitor, request) = (&self.monitor, capture.request);
        let function = || Some(stack.frames.first()?.function().into());
        let kernel_call = capture.in_kernel.then(function).flatten();
        let sample = StackSample {
            age: request.age + monitor.clock.ticks(capture.delay),
            blocked_in: capture.blocked_in,
            role: stack.role,
            missing: stack.missing,
            kernel_call,
            fd_target: capture.fd_target.map(|target| clean(target.as_str()).into()),
            frames: stack.frames.into(),
        };
        monitor.history.lock().samples.push(request.id, sample);
        if stack.role.is_off_worker() {
            monitor.set_off_worker(request.id, stack.role);
            // The gauges of stalls in progress have changed.
            monitor.queue.request_flush();
        }
    }
}
