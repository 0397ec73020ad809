//! The measurement of one request, or of one instrumented task, from its start to its end.
//!
//! [`RequestGuard`] moves from the call to the future and on to the body; its drop ends the
//! request. [`RequestRecord`] is what it points to, and stays in place. [`PollGuard`] is one poll.

mod answer;
mod attribution;
mod completion;
mod ended_stall;
mod guard;
mod local_handle;
mod poll_guard;
mod pool;
mod record;
mod schedule_latency;
mod socket_reads;
mod thread_local;
mod waker;

pub(crate) use self::guard::RequestGuard;
pub(crate) use self::local_handle::{LocalHandle, thread_id};
pub(crate) use self::poll_guard::{BODY, HANDLER, PollGuard, StackMark};
pub(crate) use self::socket_reads::{Connection, SocketWait};
pub(crate) use self::thread_local::{local_handle, request_route};
pub(crate) use self::waker::StampedWaker;

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests;
