//! How a thread spent the time of a poll, as the watchdog saw it.

use std::time::Duration;

use crate::os::Call;

/// One look at a thread inside a poll.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// When it was, since any fixed moment.
    pub(crate) at: Duration,
    /// How long the thread has run, ever.
    pub(crate) cpu: Duration,
    /// How long the thread has waited for a core, all waits that have ended.
    pub(crate) waited: Duration,
    /// The system call it is asleep in, if it is.
    pub(crate) asleep_in: Option<Call>,
}

/// How the time since the first look was spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    /// Ready to run, but not on a core.
    pub(crate) waiting: Duration,
    /// The system call that most looks found it asleep in.
    pub(crate) call: Option<Call>,
    /// The worker's work went to another thread meanwhile.
    pub(crate) handed_off: bool,
}

impl Evidence {
    /// What is neither running nor ready to run.
    pub(crate) fn asleep(&self) -> Duration {
        self.wall.saturating_sub(self.cpu).saturating_sub(self.waiting)
    }
}
