use crate::routes::RouteId;
use crate::stall::Phase;

/// The poll that a thread is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PollInfo {
    pub(crate) route: RouteId,
    pub(crate) phase: Phase,
    /// When it began, in ticks.
    pub(crate) start: u64,
    /// Id of the request's `tracing` span; 0 for none.
    pub(crate) span: u64,
    /// An address in the stack frame that calls the inner poll: the frames of the inner poll are
    /// below it. `u64::MAX` if the poll is not measured, in which case the whole stack counts.
    pub(crate) stack_mark: u64,
}

/// Identifies one poll of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PollId {
    /// The address of the shard; for an unattributed poll the index of its worker, which is never
    /// the address of a shard.
    pub(crate) shard: usize,
    /// When the poll began, in ticks.
    pub(crate) start: u64,
}

impl PollInfo {
    pub(super) fn from_words(route_and_phase: u64, start: u64, span: u64, stack_mark: u64) -> Self {
        let route = RouteId::from_bits(route_and_phase);
        let phase = Phase::ALL[(route_and_phase >> 16) as usize];
        Self { route, phase, start, span, stack_mark }
    }

    #[inline]
    pub(super) fn route_and_phase(&self) -> u64 {
        (self.phase as u64) << 16 | u64::from(self.route.get())
    }
}
