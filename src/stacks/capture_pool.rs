//! The captured stacks on their way from the watchdog to the symbolizer's thread, and the buffers
//! on their way back. Neither side waits, and nothing is allocated.

use std::sync::OnceLock;
use std::thread::Thread;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use super::pending_captures::PendingCaptures;
use super::snapshot::{CAPACITY, DEEP_CAPACITY};
use super::{CaptureFailure, CaptureRequest, StackSnapshot};
use crate::os::{FdTarget, Syscall};
use crate::shard::PollId;
use crate::sync::{AtomicU64, Ordering};

/// How an attempt to capture a stack ended.
pub(crate) type CaptureResult = Result<(), CaptureFailure>;

/// A captured stack.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) request: CaptureRequest,
    /// How much later than requested it was captured: a thread that is off the CPU responds late.
    pub(crate) delay: Duration,
    /// Whether the thread was running in the kernel, inside the call that its innermost frame makes.
    #[cfg_attr(not(stacks_supported), allow(dead_code))]
    pub(crate) in_kernel: bool,
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
    /// Buffers for deep stacks, which are rare.
    deep_buffers: ArrayQueue<Box<StackSnapshot>>,
    captures: ArrayQueue<Capture>,
    pending: PendingCaptures,
    symbolizer: OnceLock<Thread>,
    /// Relaxed: counts by themselves.
    results: [AtomicU64; CapturePool::RESULTS],
}

// === impl CapturePool ===

impl CapturePool {
    /// The number of results.
    pub(crate) const RESULTS: usize = CaptureFailure::COUNT + 1;
    /// The number of captures that can be in use at the same time is twice that of workers, which
    /// may all be stalled at once, within these bounds.
    const MIN_BUFFERS: usize = 16;
    const MAX_BUFFERS: usize = 256;
    const DEEP_BUFFERS: usize = 4;

    /// Creates a pool for a number of workers, with buffers if stacks will be captured.
    pub(crate) fn new(with_buffers: bool, workers: usize) -> Self {
        let buffers = workers.saturating_mul(2).clamp(Self::MIN_BUFFERS, Self::MAX_BUFFERS);
        let pool = Self {
            buffers: ArrayQueue::new(buffers),
            deep_buffers: ArrayQueue::new(Self::DEEP_BUFFERS),
            captures: ArrayQueue::new(buffers + Self::DEEP_BUFFERS),
            pending: PendingCaptures::new(buffers + Self::DEEP_BUFFERS),
            symbolizer: OnceLock::new(),
            results: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        if with_buffers {
            let recycle = |capacity| pool.recycle(Box::new(StackSnapshot::with_capacity(capacity)));
            (0..buffers).for_each(|_| recycle(CAPACITY));
            (0..Self::DEEP_BUFFERS).for_each(|_| recycle(DEEP_CAPACITY));
        }
        pool
    }

    /// Sets the thread that symbolizes. The spawner calls this before anything is captured.
    pub(crate) fn set_symbolizer(&self, symbolizer: Thread) {
        let _ = self.symbolizer.set(symbolizer);
    }

    // === the watchdog's side ===

    #[cfg_attr(not(stacks_supported), allow(dead_code))]
    pub(crate) fn take_buffer(&self) -> Option<Box<StackSnapshot>> {
        self.buffers.pop()
    }

    /// Exchanges a buffer for one that holds `len` bytes, if it is too small and a deep one is free.
    /// Returns whether it was exchanged.
    #[cfg_attr(not(stacks_supported), allow(dead_code))]
    pub(crate) fn grow(&self, stack: &mut StackSnapshot, len: usize) -> bool {
        if len <= stack.capacity() {
            return false;
        }
        let Some(mut deep) = self.deep_buffers.pop() else { return false };
        std::mem::swap(stack, &mut *deep);
        self.recycle(deep);
        true
    }

    /// Returns whether less than half of the buffers are free.
    pub(crate) fn is_low(&self) -> bool {
        self.buffers.len() < self.buffers.capacity() / 2
    }

    #[cfg_attr(not(stacks_supported), allow(dead_code))]
    pub(crate) fn push(&self, capture: Capture) {
        self.pending.begin(capture.request.id);
        // Never full: there are no more captures than buffers.
        let _ = self.captures.push(capture);
    }

    /// Wakes the symbolizer's thread if there is something to symbolize.
    pub(crate) fn notify_symbolizer(&self) {
        if !self.captures.is_empty() {
            self.wake_symbolizer();
        }
    }

    /// Wakes the symbolizer's thread, which takes no lock, as in `ReportQueue::notify`.
    pub(crate) fn wake_symbolizer(&self) {
        if let Some(symbolizer) = self.symbolizer.get() {
            symbolizer.unpark();
        }
    }

    // === the symbolizer's side ===

    pub(crate) fn next(&self) -> Option<Capture> {
        self.captures.pop()
    }

    /// Returns the buffer of a capture. If the capture could be symbolized, its sample is in the
    /// history by now.
    pub(crate) fn finish(&self, capture: Capture) {
        // Before the buffer is free, so that there is a slot for each buffer.
        self.pending.end(capture.request.id);
        self.recycle(capture.stack);
    }

    pub(crate) fn recycle(&self, stack: Box<StackSnapshot>) {
        let is_deep = stack.capacity() > CAPACITY;
        let _ = if is_deep { self.deep_buffers.push(stack) } else { self.buffers.push(stack) };
    }

    // === all sides ===

    /// Returns whether a capture of a poll is still to be symbolized.
    pub(crate) fn is_pending(&self, id: PollId) -> bool {
        self.pending.contains(id)
    }

    pub(crate) fn count(&self, result: CaptureResult) {
        let index = result.err().map_or(0, |failure| failure as usize + 1);
        self.results[index].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of attempts for each of [`labels`](Self::labels).
    pub(crate) fn counts(&self) -> [u64; Self::RESULTS] {
        std::array::from_fn(|index| self.results[index].load(Ordering::Relaxed))
    }

    /// Returns the values of the label `result`.
    pub(crate) fn labels() -> [&'static str; Self::RESULTS] {
        std::array::from_fn(|index| match index.checked_sub(1) {
            None => "captured",
            Some(failure) => CaptureFailure::ALL[failure].label(),
        })
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
impl CapturePool {
    /// Declares that a capture of a poll is pending, as `push` does.
    pub(crate) fn begin(&self, id: PollId) {
        self.pending.begin(id);
    }

    /// Declares that a capture of a poll is symbolized, as `finish` does.
    pub(crate) fn end(&self, id: PollId) {
        self.pending.end(id);
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_low_once_more_than_half_of_its_buffers_are_in_use() {
        let pool = CapturePool::new(true, 1);
        let mut in_use: Vec<_> =
            (0..CapturePool::MIN_BUFFERS / 2).filter_map(|_| pool.take_buffer()).collect();
        assert!(!pool.is_low());
        in_use.extend(pool.take_buffer());
        assert!(pool.is_low());
        in_use.into_iter().for_each(|stack| pool.recycle(stack));
        assert!(!pool.is_low());
    }

    #[test]
    fn each_result_is_counted_under_its_label() {
        let pool = CapturePool::new(false, 1);
        pool.count(Ok(()));
        CaptureFailure::ALL.into_iter().for_each(|failure| pool.count(Err(failure)));
        pool.count(Err(CaptureFailure::NoThread));
        let counts: Vec<_> = CapturePool::labels().into_iter().zip(pool.counts()).collect();
        assert_eq!((counts[0], counts[1]), (("captured", 1), ("torn", 1)));
        assert_eq!(counts[CapturePool::RESULTS - 1], ("no_thread", 2));
    }

    #[test]
    fn all_workers_can_be_stalled_at_once() {
        for (workers, expected) in [(1, 16), (64, 128), (4_096, 256)] {
            let pool = CapturePool::new(true, workers);
            assert_eq!(std::iter::from_fn(|| pool.take_buffer()).count(), expected);
        }
        assert!(CapturePool::new(false, 64).take_buffer().is_none());
    }

    #[test]
    fn a_deep_stack_has_a_deep_buffer_while_there_are_some() {
        let pool = CapturePool::new(true, 1);
        let mut in_use: Vec<_> = std::iter::from_fn(|| pool.take_buffer()).collect();
        assert!(!pool.grow(&mut in_use[0], CAPACITY));
        let grown = in_use
            .iter_mut()
            .filter_map(|stack| pool.grow(stack, CAPACITY + 1).then(|| stack.capacity()));
        assert_eq!(grown.collect::<Vec<_>>(), [DEEP_CAPACITY; CapturePool::DEEP_BUFFERS]);
        assert_eq!(std::iter::from_fn(|| pool.take_buffer()).count(), 4, "the exchanged ones");
        in_use.into_iter().for_each(|stack| pool.recycle(stack));
        assert_eq!(pool.deep_buffers.len(), CapturePool::DEEP_BUFFERS);
    }
}
