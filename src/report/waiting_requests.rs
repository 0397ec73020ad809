//! The requests that waited in a socket when a stall ended: they were not in flight yet.

use std::collections::VecDeque;
use std::time::Duration;

use crate::state::{MonitorState, SocketWaitInterval, SocketWaits};

/// The latest requests that have waited in a socket.
#[derive(Debug, Default)]
pub(super) struct WaitingRequests(VecDeque<SocketWaitInterval>);

impl WaitingRequests {
    /// How long after the end of a stall the requests that waited for it are read.
    const READ_WITHIN: Duration = Duration::from_millis(20);

    /// Returns whether requests that waited at the end of a stall, so long ago, may still be read.
    pub(super) fn may_follow(monitor: &MonitorState, since: Duration) -> bool {
        monitor.reads_sockets.is_set() && since < Self::READ_WITHIN
    }

    /// Takes what the polling threads have recorded.
    pub(super) fn update(&mut self, monitor: &MonitorState) {
        while let Some(interval) = monitor.socket_waits.pop() {
            if self.0.len() == SocketWaits::CAPACITY {
                self.0.pop_front();
            }
            self.0.push_back(interval);
        }
    }

    /// Returns how many requests that have been read by now were waiting at a moment, in ticks.
    pub(super) fn count_at(&self, moment: u64) -> usize {
        self.0.iter().filter(|interval| interval.contains(moment)).count()
    }
}
