use std::fmt;

/// Why a poll took so long.
///
/// `Cpu` and `Blocked` are the code's fault: the time that the thread was on-CPU or off-CPU exceeds
/// the threshold by itself, and this is the larger share of it. `Preempted` and `Paused` are host
/// delays, without which the poll would have been no stall; this is the larger share of the delay.
///
/// ```
/// use tower_stall::Cause;
///
/// assert_eq!(Cause::Blocked.as_str(), "blocked");
/// assert_eq!(Cause::Paused.to_string(), "paused");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Cause {
    /// The thread was mostly on-CPU.
    Cpu,
    /// The thread was mostly off-CPU, in a system call or on a lock.
    Blocked,
    /// The thread was runnable, but other threads or the CPU quota of its control group kept it off
    /// the CPU.
    Preempted,
    /// The whole process was stopped.
    Paused,
    /// The poll ended before the watchdog sampled it, the report queue was full, or the platform
    /// does not report the cause. On Windows also if it ended less than 16 ms after its first
    /// sample.
    Unknown,
}

impl Cause {
    /// Returns the value of the label `cause`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Blocked => "blocked",
            Self::Preempted => "preempted",
            Self::Paused => "paused",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
