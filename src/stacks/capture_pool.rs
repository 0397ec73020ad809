//! The captured stacks on their way from the watchdog to the reporter, and the buffers on their way
//! back. Neither side waits, and nothing is allocated.

use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use super::{CaptureRequest, StackSnapshot};
use crate::os::{FdTarget, Syscall};
use crate::sync::{AtomicU64, Ordering};

/// How an attempt to capture a stack ended; the label `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaptureResult {
    Captured,
    /// The thread continued meanwhile, or the stack was inconsistent.
    Torn,
    /// The thread was running, and signals are disabled.
    Running,
    /// The thread did not respond to the signal.
    Timeout,
    /// Not supported on this platform.
    Unsupported,
}

/// A captured stack.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) request: CaptureRequest,
    /// How much later than requested it was captured: a thread that is off the CPU responds late.
    pub(crate) delay: Duration,
    /// The system call that the thread was blocked in; `None` if it was running.
    pub(crate) blocked_in: Option<Syscall>,
    /// What the file descriptor of that system call refers to.
    pub(crate) fd_target: Option<FdTarget>,
    pub(crate) stack: Box<StackSnapshot>,
}

/// Captured stacks, free buffers, and the number of attempts by result.
#[derive(Debug)]
pub(crate) struct CapturePool {
    buffers: ArrayQueue<Box<StackSnapshot>>,
    captures: ArrayQueue<Capture>,
    /// Relaxed: counts by themselves.
    results: [AtomicU64; CaptureResult::ALL.len()],
}

// === impl CaptureResult ===

impl CaptureResult {
    pub(crate) const ALL: [Self; 5] =
        [Self::Captured, Self::Torn, Self::Running, Self::Timeout, Self::Unsupported];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::Torn => "torn",
            Self::Running => "running",
            Self::Timeout => "timeout",
            Self::Unsupported => "unsupported",
        }
    }
}

// === impl CapturePool ===

impl CapturePool {
    /// The number of captures that can be in use at the same time.
    const CAPACITY: usize = 16;

    /// Creates a pool, with buffers if stacks will be captured.
    pub(crate) fn new(with_buffers: bool) -> Self {
        let pool = Self {
            buffers: ArrayQueue::new(Self::CAPACITY),
            captures: ArrayQueue::new(Self::CAPACITY),
            results: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        if with_buffers {
            (0..Self::CAPACITY).for_each(|_| pool.recycle(Box::new(StackSnapshot::empty())));
        }
        pool
    }

    // === the watchdog's side ===

    #[cfg_attr(not(stacks_supported), allow(dead_code))]
    pub(crate) fn take_buffer(&self) -> Option<Box<StackSnapshot>> {
        self.buffers.pop()
    }

    /// Returns whether less than half of the buffers are free.
    pub(crate) fn is_low(&self) -> bool {
        self.buffers.len() < Self::CAPACITY / 2
    }

    #[cfg_attr(not(stacks_supported), allow(dead_code))]
    pub(crate) fn push(&self, capture: Capture) {
        // Never full: there are no more captures than buffers.
        let _ = self.captures.push(capture);
    }

    // === the reporter's side ===

    pub(crate) fn next(&self) -> Option<Capture> {
        self.captures.pop()
    }

    pub(crate) fn recycle(&self, stack: Box<StackSnapshot>) {
        let _ = self.buffers.push(stack);
    }

    // === both sides ===

    pub(crate) fn count(&self, result: CaptureResult) {
        self.results[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> [u64; CaptureResult::ALL.len()] {
        CaptureResult::ALL.map(|result| self.results[result as usize].load(Ordering::Relaxed))
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_low_once_more_than_half_of_its_buffers_are_in_use() {
        let pool = CapturePool::new(true);
        let mut in_use: Vec<_> =
            (0..CapturePool::CAPACITY / 2).filter_map(|_| pool.take_buffer()).collect();
        assert!(!pool.is_low());
        in_use.extend(pool.take_buffer());
        assert!(pool.is_low());
        in_use.into_iter().for_each(|stack| pool.recycle(stack));
        assert!(!pool.is_low());
    }
}
