//! The symbolizer's thread. It may be slow: the first stack reads the debug information of the
//! program.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::blocking_pool;
use super::log::Log;
use super::outputs::Outputs;
use crate::stacks::{Capture, CaptureFailure, SymbolizedStack, Symbolizer};
use crate::state::{MonitorState, StackSample};
use crate::text::clean;

pub(crate) struct SymbolLoop {
    monitor: Arc<MonitorState>,
    /// `None` while it has not been used for a while: it keeps debug information.
    symbolizer: Option<Symbolizer>,
    used_at: Instant,
    log: Arc<Log>,
}

impl SymbolLoop {
    /// For how long the debug information is kept. The next stack after that reads it anew.
    const KEEP: Duration = Duration::from_secs(30);

    pub(crate) fn new(monitor: Arc<MonitorState>, outputs: &Outputs) -> Self {
        Self { monitor, symbolizer: None, used_at: Instant::now(), log: Arc::clone(&outputs.log) }
    }

    /// Runs until the queue is closed.
    pub(crate) fn run(mut self) {
        loop {
            // Read before the work: the watchdog has ended then, and captures nothing more.
            let is_closed = self.monitor.queue.is_closed();
            let used_at = self.used_at;
            while let Some(capture) = self.monitor.capture_pool.next() {
                self.symbolize(capture);
            }
            self.report_blocking_pool();
            if self.used_at != used_at {
                // Reading may have taken longer than it is kept.
                self.used_at = Instant::now();
            }
            if is_closed {
                return;
            }
            self.wait();
        }
    }

    /// Waits for work, and frees the symbolizer if there is none for too long.
    fn wait(&mut self) {
        if self.symbolizer.is_none() {
            return thread::park();
        }
        match Self::KEEP.checked_sub(self.used_at.elapsed()) {
            Some(rest) if !rest.is_zero() => thread::park_timeout(rest),
            _ => self.symbolizer = None,
        }
    }

    fn symbolizer(&mut self) -> &mut Symbolizer {
        self.used_at = Instant::now();
        let max_memory = self.monitor.symbol_memory;
        self.symbolizer.get_or_insert_with(|| Symbolizer::new(max_memory))
    }

    fn report_blocking_pool(&mut self) {
        let monitor = Arc::clone(&self.monitor);
        let log = Arc::clone(&self.log);
        blocking_pool::report_if_due(&monitor, || self.symbolizer(), &log);
    }

    /// Symbolizes a captured stack, and tells the reporter.
    fn symbolize(&mut self, capture: Capture) {
        let symbolizer = self.symbolizer();
        let result = catch_unwind(AssertUnwindSafe(|| symbolizer.symbolize(&capture)));
        let symbolized = result.unwrap_or_else(|_| {
            // Its caches may be inconsistent.
            self.symbolizer = None;
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

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Clock;
    use crate::state::tests::state;

    #[test]
    fn debug_information_is_freed_once_it_has_not_been_used_for_a_while() {
        let monitor = state(Clock::new());
        let (outputs, _, _) = Outputs::new(Arc::clone(&monitor), None, 10);
        let mut symbols = SymbolLoop::new(monitor, &outputs);
        symbols.symbolizer();
        thread::current().unpark();
        symbols.wait();
        assert!(symbols.symbolizer.is_some());
        symbols.used_at = Instant::now().checked_sub(SymbolLoop::KEEP).unwrap();
        symbols.wait();
        assert!(symbols.symbolizer.is_none());
    }
}
