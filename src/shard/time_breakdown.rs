use std::time::Duration;

use crate::os::Syscall;

/// How a thread spent the time of a poll, since the watchdog's first sample of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeBreakdown {
    pub(crate) wall: Duration,
    /// On-CPU.
    pub(crate) cpu: Duration,
    /// Runnable, but waiting in the run queue.
    pub(crate) run_delay: Duration,
    /// Upper bounds of the time on-CPU and in the run queue before the first sample: since the sample
    /// before, of an earlier poll, or else since the start of the thread.
    pub(crate) max_cpu_before: Duration,
    pub(crate) max_run_delay_before: Duration,
    /// The system call that the thread was blocked in, in most of the samples.
    pub(crate) syscall: Option<Syscall>,
    /// Whether the worker was handed off to another thread meanwhile.
    pub(crate) handed_off: bool,
    /// For how long the poll had given up its worker before a thread took the worker over, or at
    /// least not yet, counted from its start, in ticks; `None` if a thread was free.
    pub(crate) stranded_for: Option<u64>,
}

impl TimeBreakdown {
    /// Returns the time that the thread was blocked: neither on-CPU nor runnable.
    pub(crate) fn off_cpu(&self) -> Duration {
        self.wall.saturating_sub(self.cpu).saturating_sub(self.run_delay)
    }
}
