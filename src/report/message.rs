//! A report on its way from the reporter to the log or to the hook.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::shard::PollId;
use crate::stall::Stall;
use crate::state::MonitorState;

/// For how long a report of a stall in progress is true.
const MAX_AGE: Duration = Duration::from_secs(1);

/// A report on its way.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(super) id: PollId,
    pub(super) stall: Stall,
    pub(super) sent_at: Instant,
}

/// What the threads of the blocking pool do.
#[derive(Debug)]
pub(super) struct BlockingPoolReport {
    pub(super) runtime: Arc<str>,
    pub(super) waiting: Duration,
    pub(super) threads: usize,
    /// The stacks, those of most threads first, each with the number of its threads.
    pub(super) stacks: String,
}

impl Message {
    /// Returns whether the report still says what is so. A report of a stall in progress that had
    /// to wait may not: another one, with its end or with its present age, follows. If that is
    /// because the report waited for a receiver that hung, it is counted as dropped.
    pub(super) fn is_current(&self, monitor: &MonitorState, now: Instant) -> bool {
        if !self.stall.in_progress {
            return true;
        }
        let is_late = now.saturating_duration_since(self.sent_at) > MAX_AGE;
        if is_late {
            monitor.queue.count_dropped();
        }
        !is_late && monitor.is_running(self.id)
    }
}
