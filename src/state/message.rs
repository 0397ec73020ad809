//! Messages from polling threads and the watchdog to the reporter.

use crate::shard::{PollId, PollInfo, TimeBreakdown};
use crate::trace::SpanRef;

/// A stall that has ended.
#[derive(Debug)]
pub(crate) struct EndedStall {
    pub(crate) stall: StallMessage,
    /// When the poll ended, in ticks.
    pub(crate) end: u64,
    pub(crate) span: SpanRef,
}

/// A stall in progress whose report is due.
#[derive(Debug)]
pub(crate) struct InProgressReport {
    pub(crate) stall: StallMessage,
}

/// The measurements of a stall, whether it has ended or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StallMessage {
    pub(crate) id: PollId,
    pub(crate) poll: PollInfo,
    /// The duration of the stall, without that of nested stalls; the age of one in progress. In
    /// ticks.
    pub(crate) ticks: u64,
    /// The stall threshold, in ticks.
    pub(crate) threshold: u64,
    pub(crate) worker: Option<usize>,
    /// Whether the thread is a worker, of the watched runtime or of another one.
    pub(crate) on_worker: bool,
    /// The number of other requests in flight.
    pub(crate) in_flight: usize,
    pub(crate) io_starved: bool,
    /// When another worker took over the starved I/O driver, in ticks.
    pub(crate) rescued_at: Option<u64>,
    pub(crate) breakdown: Option<TimeBreakdown>,
}

/// A condition of the set-up that is logged once, because it limits what can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The layer wraps routes of an axum other than the one this crate is built against.
    OtherAxum,
    /// The runtime has no I/O driver.
    NoIoDriver,
    /// Stacks are requested, but cannot be captured.
    NoStacks,
    /// No thread can be started.
    NoThread,
}

impl Notice {
    pub(crate) const ALL: [Self; 4] =
        [Self::OtherAxum, Self::NoIoDriver, Self::NoStacks, Self::NoThread];

    pub(crate) fn bit(self) -> u64 {
        1 << self as u64
    }
}
