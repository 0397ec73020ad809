//! The stack of a stalled thread: copied by the watchdog, made readable by the reporter.
//!
//! A thread that is asleep is not disturbed: its stack does not change, so it is copied from outside. One that runs is
//! interrupted by a signal for the time of a copy, and only if the user wishes it. The copies are unwound and named later, by
//! the reporter.

mod captures;
mod raw;

#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    target_arch = "x86_64",
    target_env = "gnu",
    not(tower_stall_elsewhere)
))]
mod linux;
#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    target_arch = "x86_64",
    target_env = "gnu",
    not(tower_stall_elsewhere)
))]
use self::linux as system;

#[cfg(not(all(
    feature = "stacks",
    target_os = "linux",
    target_arch = "x86_64",
    target_env = "gnu",
    not(tower_stall_elsewhere)
)))]
mod elsewhere;
#[cfg(not(all(
    feature = "stacks",
    target_os = "linux",
    target_arch = "x86_64",
    target_env = "gnu",
    not(tower_stall_elsewhere)
)))]
use self::elsewhere as system;

use crate::cells::Subject;
use crate::os::{Moment, Tid, Turns};
use crate::stall::Frame;

pub(crate) use self::captures::{Capture, Captures, Outcome};
pub(crate) use self::system::{Capturer, Resolver, stack_bounds, unsupported};

use self::raw::RawStack;

/// What a stack is wanted for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purpose {
    pub(crate) of: Subject,
    /// How old the poll is, in ticks.
    pub(crate) age: u64,
    /// Where the frame lies that makes the poll; `u64::MAX` for the whole stack.
    pub(crate) mark: u64,
}

/// A thread, as it was seen a moment ago.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) thread: Tid,
    /// The lowest address of its stack, and the first one above it.
    pub(crate) bounds: [u64; 2],
    pub(crate) moment: Moment,
    pub(crate) turns: Turns,
}

/// A stack that was made readable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolved {
    /// Innermost first, no further out than the handler.
    pub(crate) frames: Vec<Frame>,
    /// It lies inside `tokio::task::block_in_place`.
    pub(crate) handed_off: bool,
    /// It is a worker's, and runs a task.
    pub(crate) is_on_worker: bool,
    /// The program has no line tables.
    pub(crate) lacks_lines: bool,
}
