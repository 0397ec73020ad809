//! The latest requests whose bytes have waited in a socket.

use crossbeam_queue::ArrayQueue;

/// When the bytes of a request arrived at the host, and when they were read, in ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketWaitInterval {
    pub(crate) arrived: u64,
    pub(crate) read: u64,
}

/// Filled by polling threads, emptied by the reporter. The oldest are lost if it is full.
#[derive(Debug)]
pub(crate) struct SocketWaits(ArrayQueue<SocketWaitInterval>);

impl SocketWaits {
    pub(crate) const CAPACITY: usize = 1024;

    pub(super) fn new() -> Self {
        Self(ArrayQueue::new(Self::CAPACITY))
    }

    pub(crate) fn push(&self, interval: SocketWaitInterval) {
        self.0.force_push(interval);
    }

    pub(crate) fn pop(&self) -> Option<SocketWaitInterval> {
        self.0.pop()
    }
}

impl SocketWaitInterval {
    /// Returns whether the bytes were waiting at a moment.
    pub(crate) fn contains(&self, moment: u64) -> bool {
        self.arrived < moment && moment <= self.read
    }
}
