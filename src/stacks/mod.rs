//! The stack of a stalled thread: captured by the watchdog, symbolized later.
//!
//! A blocked thread is not disturbed: its stack does not change, so it is copied from outside. A
//! running thread is interrupted by a signal for the duration of a copy, and only if the user
//! enables that. The copies are unwound and symbolized on another thread, which may be slow.

mod capture_pool;
mod pending_captures;
mod snapshot;
mod thread_role;

#[cfg(stacks_supported)]
mod linux;
#[cfg(not(stacks_supported))]
mod unsupported;

#[cfg(stacks_supported)]
use self::linux as system;
#[cfg(not(stacks_supported))]
use self::unsupported as system;

use crate::os::{SchedStat, ThreadState, Tid};
use crate::shard::PollId;
use crate::stall::Frame;

pub(crate) use self::capture_pool::{Capture, CapturePool, CaptureResult};
pub(crate) use self::system::{StackSampler, Symbolizer, unsupported};
pub(crate) use self::thread_role::ThreadRole;
pub(crate) use crate::stall::CaptureFailure;

use self::snapshot::StackSnapshot;

/// What a stack is captured for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CaptureRequest {
    pub(crate) id: PollId,
    /// The age of the poll, in ticks.
    pub(crate) age: u64,
    /// An address in the frame that calls the inner poll; `u64::MAX` for the whole stack.
    pub(crate) stack_mark: u64,
}

/// A thread as it was sampled a moment ago.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(stacks_supported), allow(dead_code))]
pub(crate) struct TargetThread {
    pub(crate) tid: Tid,
    pub(crate) state: ThreadState,
    pub(crate) sched_stat: SchedStat,
}

/// A stack with names and lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct SymbolizedStack {
    /// From the innermost call to the handler.
    pub(crate) frames: Vec<Frame>,
    pub(crate) role: ThreadRole,
    /// Why it shows no line of the application.
    pub(crate) missing: Option<CaptureFailure>,
}
