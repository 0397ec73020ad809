//! Bounded queues to the reporter, the request for a flush, and the threads to wake for them. No
//! sender waits.

use std::sync::OnceLock;
use std::thread::Thread;

use crossbeam_queue::ArrayQueue;

use super::message::{EndedStall, InProgressReport, Notice};
use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// The queue of ended stalls, filled by polling threads, and that of reports of stalls in progress,
/// filled by the watchdog.
#[derive(Debug)]
pub(crate) struct ReportQueue {
    ended: ArrayQueue<EndedStall>,
    in_progress: ArrayQueue<InProgressReport>,
    /// Relaxed, like `rescues`: a count by itself.
    dropped: AtomicU64,
    rescues: AtomicU64,
    /// The notices to log, as bits. Relaxed: no other memory belongs to them.
    notices: AtomicU64,
    flush: AtomicBool,
    closed: AtomicBool,
    /// Whether the reporter has processed everything that was queued before the closing.
    finished: AtomicBool,
    reporter: OnceLock<Thread>,
    exporter: OnceLock<Thread>,
}

impl ReportQueue {
    const ENDED_CAPACITY: usize = 1024;
    const IN_PROGRESS_CAPACITY: usize = 256;

    // === the senders' side ===

    /// Returns `false` if the queue is full or closed, so that the stall will not be reported.
    pub(crate) fn push_ended(&self, ended: EndedStall) -> bool {
        if self.is_closed() {
            return false;
        }
        if ended.stall.rescued_at.is_some() {
            self.rescues.fetch_add(1, Ordering::Relaxed);
        }
        let is_queued = self.ended.push(ended).is_ok();
        if !is_queued {
            self.count_dropped();
        }
        self.notify();
        is_queued
    }

    pub(crate) fn push_in_progress(&self, report: InProgressReport) {
        if self.in_progress.push(report).is_err() {
            self.count_dropped();
        }
        self.notify();
    }

    /// Asks the reporter to log a notice.
    pub(crate) fn push_notice(&self, notice: Notice) {
        let requested = self.notices.fetch_or(notice.bit(), Ordering::Relaxed);
        if requested & notice.bit() == 0 {
            self.notify();
        }
    }

    /// Asks the exporter to flush the counters.
    pub(crate) fn request_flush(&self) {
        // Release: pairs with the Acquire in `take_flush`.
        self.flush.store(true, Ordering::Release);
        self.notify_exporter();
    }

    /// Asks the reporter to process what is queued, and to end.
    pub(crate) fn close(&self) {
        // Release: pairs with the Acquire in `is_closed`.
        self.closed.store(true, Ordering::Release);
        self.notify();
    }

    /// Wakes the reporter, which takes no lock where std's parker is a futex, an address or a
    /// semaphore: on every system that tokio supports.
    pub(crate) fn notify(&self) {
        if let Some(reporter) = self.reporter.get() {
            reporter.unpark();
        }
    }

    // === the reporter's side ===

    /// Sets the thread to wake. The spawner calls this before anything can close the queue.
    pub(crate) fn set_reporter(&self, reporter: Thread) {
        let _ = self.reporter.set(reporter);
    }

    pub(crate) fn pop_ended(&self) -> Option<EndedStall> {
        self.ended.pop()
    }

    pub(crate) fn pop_in_progress(&self) -> Option<InProgressReport> {
        self.in_progress.pop()
    }

    /// Returns whether a notice was requested.
    pub(crate) fn has_notice(&self, notice: Notice) -> bool {
        self.notices.load(Ordering::Relaxed) & notice.bit() != 0
    }

    pub(crate) fn is_closed(&self) -> bool {
        // Acquire: pairs with the Release in `close`.
        self.closed.load(Ordering::Acquire)
    }

    /// Declares that the reporter has processed everything, so that the exporter ends.
    pub(crate) fn finish(&self) {
        // Release: pairs with the Acquire in `is_finished`.
        self.finished.store(true, Ordering::Release);
        self.notify_exporter();
    }

    // === the exporter's side ===

    /// Sets the thread to wake. The spawner calls this before anything can request a flush.
    pub(crate) fn set_exporter(&self, exporter: Thread) {
        let _ = self.exporter.set(exporter);
    }

    pub(crate) fn take_flush(&self) -> bool {
        // Acquire: pairs with the Release in `request_flush`.
        self.flush.swap(false, Ordering::Acquire)
    }

    pub(crate) fn is_finished(&self) -> bool {
        // Acquire: pairs with the Release in `finish`.
        self.finished.load(Ordering::Acquire)
    }

    fn notify_exporter(&self) {
        if let Some(exporter) = self.exporter.get() {
            exporter.unpark();
        }
    }

    // === counts ===

    /// Counts an event that will not be reported.
    pub(crate) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of events that were not reported.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Returns the number of ended stalls that were resolved by a rescue.
    pub(crate) fn rescues(&self) -> u64 {
        self.rescues.load(Ordering::Relaxed)
    }
}

impl Default for ReportQueue {
    fn default() -> Self {
        Self {
            ended: ArrayQueue::new(Self::ENDED_CAPACITY),
            in_progress: ArrayQueue::new(Self::IN_PROGRESS_CAPACITY),
            dropped: AtomicU64::new(0),
            rescues: AtomicU64::new(0),
            notices: AtomicU64::new(0),
            flush: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            reporter: OnceLock::new(),
            exporter: OnceLock::new(),
        }
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use super::*;
    use crate::sync::check_publishes;

    /// The flush hands over what was counted before it was requested.
    #[test]
    fn loom_a_flush_request_publishes_what_was_counted_before() {
        check_publishes(ReportQueue::request_flush, ReportQueue::take_flush);
    }

    /// The reporter ends only after it has seen everything that was sent before the close.
    #[test]
    fn loom_closing_the_queue_publishes_what_was_sent_before() {
        check_publishes(ReportQueue::close, ReportQueue::is_closed);
    }
    /// The exporter ends only after it has seen everything that the reporter counted.
    #[test]
    fn loom_finishing_publishes_what_was_counted_before() {
        check_publishes(ReportQueue::finish, ReportQueue::is_finished);
    }
}
