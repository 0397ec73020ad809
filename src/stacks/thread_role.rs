//! What a stack shows of the role of its thread.

/// The role of a thread, as far as one stack shows it.
///
/// A role needs evidence. That a stack lacks something is none: frames may be inlined, stripped or
/// cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ThreadRole {
    /// The poll occupies its worker: all calls are known, and none of them hands it off.
    Worker,
    /// The poll is inside `tokio::task::block_in_place`.
    HandedOff,
    /// The thread runs no task of a worker: it is a thread of the blocking pool, not one of the
    /// runtime, or a worker that is parked.
    OffWorker,
    #[default]
    Unknown,
}

impl ThreadRole {
    /// Returns whether the thread does not stall a worker.
    pub(crate) fn is_off_worker(self) -> bool {
        matches!(self, Self::HandedOff | Self::OffWorker)
    }
}
