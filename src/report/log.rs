//! The events of reports, and the thread that writes them, which hangs if the subscriber does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::message::{BlockingPoolReport, Message};
use super::outbox::Outbox;
use super::rate_limiter::RateLimiter;
use super::spans;
use crate::stall::{Cause, Stall};
use crate::state::{MonitorState, Notice};
use crate::trace::{Parent, SpanRef, Tracing};

/// How long an event that waits to be written keeps the span of its request open.
const MAX_SPAN_HOLD: Duration = Duration::from_secs(1);

/// The events that are to be written.
#[derive(Debug)]
pub(crate) struct Log {
    monitor: Arc<MonitorState>,
    outbox: Outbox<LogEntry>,
    /// Locked for moments only, and not while an event is written.
    limiter: Mutex<RateLimiter>,
    started_at: Instant,
}

#[derive(Debug)]
enum LogEntry {
    Report {
        message: Box<Message>,
        parent: Parent,
        /// The reports of the same line that were suppressed before this one. Of a stall in
        /// progress, the limit is asked when the event is written: until then, the report may be
        /// outdated.
        suppressed: Option<u64>,
    },
    Notice(Notice),
    BlockingPool(BlockingPoolReport),
    /// Spans whose runtime has shut down, so that they have to be closed here.
    Close(Vec<SpanRef>),
}

/// Writes the events that the reporter sends.
pub(crate) struct LogLoop {
    log: Arc<Log>,
    tracing: Tracing,
}

// === impl Log ===

impl Log {
    pub(super) fn new(monitor: Arc<MonitorState>, reports_per_minute: u32) -> Self {
        Self {
            monitor,
            outbox: Outbox::default(),
            limiter: Mutex::new(RateLimiter::new(reports_per_minute)),
            started_at: Instant::now(),
        }
    }

    /// Sends a report, unless it is suppressed or there is no room for it. Returns the span of a
    /// report that was not sent.
    pub(super) fn send(&self, message: Message, parent: Parent) -> Option<SpanRef> {
        if message.stall.cause == Cause::Paused {
            return parent.into_span();
        }
        let suppressed = (!message.stall.in_progress).then(|| self.acquire(&message.stall));
        if suppressed == Some(None) {
            return parent.into_span();
        }
        let suppressed = suppressed.flatten();
        let message = Box::new(message);
        let unsent = self.outbox.send(LogEntry::Report { message, parent, suppressed }).err()?;
        let LogEntry::Report { message, parent, .. } = unsent else { return None };
        self.monitor.queue.count_dropped();
        self.give_back(&message.stall, suppressed);
        parent.into_span()
    }

    /// Returns whether a report may be written, and how many were suppressed before it.
    fn acquire(&self, stall: &Stall) -> Option<u64> {
        let suppressed = self.with_limiter(|limiter, now| limiter.acquire(stall, now));
        if suppressed.is_none() {
            self.monitor.history.lock().suppressed += 1;
        }
        suppressed
    }

    /// Returns the number that an event would have had which is not written after all.
    fn give_back(&self, stall: &Stall, suppressed: Option<u64>) {
        if let Some(suppressed) = suppressed {
            self.with_limiter(|limiter, now| limiter.give_back(stall, suppressed, now));
        }
    }

    /// Returns whether there was room for a notice.
    pub(super) fn send_notice(&self, notice: Notice) -> bool {
        self.outbox.send(LogEntry::Notice(notice)).is_ok()
    }

    /// Sends a report of the blocking pool, unless there is no room for it, which is counted.
    pub(super) fn send_blocking_pool(&self, report: BlockingPoolReport) {
        if self.outbox.send(LogEntry::BlockingPool(report)).is_err() {
            self.monitor.queue.count_dropped();
        }
    }

    /// Closes spans, on the log's thread if their runtime has shut down.
    pub(super) fn close_spans(&self, open: Vec<SpanRef>) {
        let left = spans::give_back(&self.monitor, open);
        if left.is_empty() {
            return;
        }
        if let Err(LogEntry::Close(left)) = self.outbox.send(LogEntry::Close(left)) {
            // A runtime that is gone, and a log that hangs or has ended: rather a span that is
            // never closed than a reporter that hangs in closing it.
            std::mem::forget(left);
        }
    }

    /// Returns the spans of events that have waited too long, because the log hangs. The events
    /// will be written without.
    pub(super) fn take_expired_spans(&self, now: Instant) -> Vec<SpanRef> {
        let mut expired = Vec::new();
        self.outbox.for_each(|entry| {
            let LogEntry::Report { message, parent, .. } = entry else { return };
            if now.saturating_duration_since(message.sent_at) >= MAX_SPAN_HOLD {
                expired.extend(parent.take_span());
            }
        });
        expired
    }

    pub(super) fn is_empty(&self) -> bool {
        self.outbox.is_empty()
    }

    pub(crate) fn close(&self) {
        self.outbox.close();
    }

    pub(crate) fn wait_for_end(&self, deadline: Instant) {
        self.outbox.wait_for_end(deadline);
    }

    /// Calls a function with the limiter and the time. The clock is read under the lock, so that
    /// it never goes back.
    fn with_limiter<T>(&self, f: impl FnOnce(&mut RateLimiter, Duration) -> T) -> T {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut limiter, self.started_at.elapsed())
    }
}

// === impl LogLoop ===

impl LogLoop {
    pub(super) fn new(log: Arc<Log>) -> Self {
        Self { log, tracing: Tracing::current() }
    }

    /// Runs until the log is closed. A subscriber that panics loses the event, and nothing else.
    pub(crate) fn run(self) {
        self.log.outbox.receive_all(|entry| self.write(entry, Instant::now()));
    }

    fn write(&self, entry: LogEntry, now: Instant) {
        match entry {
            LogEntry::Report { message, parent, suppressed } => {
                self.report(&message, &parent, suppressed, now);
                self.close(parent.into_span().into_iter().collect());
            }
            LogEntry::Notice(notice) => _ = self.contain(|| self.notice(notice)),
            LogEntry::BlockingPool(report) => {
                self.contain(|| {
                    let BlockingPoolReport { runtime, waiting, threads, stacks } = &report;
                    self.tracing.blocking_pool(runtime, *waiting, *threads, stacks);
                });
            }
            LogEntry::Close(spans) => self.close(spans),
        }
    }

    fn report(&self, message: &Message, parent: &Parent, acquired: Option<u64>, now: Instant) {
        let stall = &message.stall;
        if !message.is_current(&self.log.monitor, now) {
            return;
        }
        let Some(suppressed) = acquired.or_else(|| self.log.acquire(stall)) else { return };
        if !self.contain(|| self.tracing.report(stall, parent, suppressed)) {
            self.log.give_back(stall, Some(suppressed));
        }
    }

    fn notice(&self, notice: Notice) {
        let reason = || self.log.monitor.stacks_missing.unwrap_or_default();
        match notice {
            Notice::OtherAxum => self.tracing.other_axum(),
            Notice::NoIoDriver => self.tracing.no_io_driver(),
            Notice::NoThread => self.tracing.no_thread(),
            Notice::NoStacks => self.tracing.stacks_missing(reason()),
        }
    }

    /// Closes spans. If their runtime has shut down, nothing better than this thread is left.
    fn close(&self, open: Vec<SpanRef>) {
        let left = spans::give_back(&self.log.monitor, open);
        for span in left {
            self.contain(|| drop(span));
        }
    }

    /// Calls into the subscriber. Returns whether that ended without a panic, which is counted.
    fn contain(&self, call: impl FnOnce()) -> bool {
        let has_returned = catch_unwind(AssertUnwindSafe(call)).is_ok();
        if !has_returned {
            self.log.monitor.queue.count_dropped();
        }
        has_returned
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Clock;
    use crate::shard::PollId;
    use crate::state::tests::state;

    fn log(reports_per_minute: u32) -> (Arc<MonitorState>, Arc<Log>, LogLoop) {
        let monitor = state(Clock::Manual(Arc::default()));
        let log = Arc::new(Log::new(Arc::clone(&monitor), reports_per_minute));
        let log_loop = LogLoop::new(Arc::clone(&log));
        (monitor, log, log_loop)
    }

    fn message(in_progress: bool) -> Message {
        Message {
            id: PollId { shard: 0, start: 7 },
            stall: Stall { in_progress, ..Stall::for_tests([]) },
            sent_at: Instant::now(),
        }
    }

    fn send(log: &Log, message: Message) {
        assert!(log.send(message, Parent::NONE).is_none());
    }

    /// Returns the field `suppressed` of each event that is queued.
    fn queued(log: &Log) -> Vec<Option<u64>> {
        let entries = log.outbox.take_all().into_iter();
        entries
            .map(|entry| match entry {
                LogEntry::Report { suppressed, .. } => suppressed,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn each_report_is_queued_or_suppressed_or_dropped_and_counted_as_such() {
        let (monitor, log, _) = log(2_000);
        (0..2_100).for_each(|_| send(&log, message(false)));
        let suppressed = monitor.history.lock().suppressed;
        let queued = queued(&log);
        assert_eq!(queued, vec![Some(0); 1024]);
        assert_eq!(1024 + suppressed + monitor.queue.dropped(), 2_100);
        assert!(monitor.queue.dropped() >= 2_000 - 1024);
    }

    #[test]
    fn a_dropped_report_leaves_its_number_to_the_next_one() {
        let (monitor, log, _) = log(60_000);
        let stall = message(false).stall;
        log.with_limiter(|limiter, now| limiter.give_back(&stall, 7, now));
        let filler = Stall { method: "HEAD", ..stall };
        (0..1024).for_each(|_| send(&log, Message { stall: filler.clone(), ..message(false) }));
        send(&log, message(false));
        assert_eq!(monitor.queue.dropped(), 1, "there was no room for it");
        queued(&log);
        send(&log, message(false));
        assert_eq!(queued(&log), [Some(7)]);
    }

    #[test]
    fn a_report_of_a_stall_in_progress_is_not_written_late() {
        let (monitor, log, log_loop) = log(10);
        let write = |wait: Duration| {
            send(&log, message(true));
            let entry = log.outbox.take_all().pop().unwrap();
            log_loop.write(entry, Instant::now() + wait);
            // What was written has taken a token.
            log.with_limiter(|limiter, now| limiter.tokens(&message(true).stall, now)).round()
        };
        assert_eq!((write(Duration::ZERO), monitor.queue.dropped()), (10.0, 0), "it has ended");
        monitor.unattributed[0].begin(7);
        assert_eq!((write(Duration::from_secs(2)), monitor.queue.dropped()), (10.0, 1));
        assert_eq!((write(Duration::ZERO), monitor.queue.dropped()), (9.0, 1));
    }

    #[test]
    fn a_notice_is_sent_unless_there_is_no_room() {
        let (_, log, _) = log(10);
        assert!(log.send_notice(Notice::NoStacks));
        log.close();
        assert!(!log.send_notice(Notice::NoStacks));
    }
}
