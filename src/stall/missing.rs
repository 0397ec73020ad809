use super::CaptureFailure;

/// Why a report has no line of code, or no stack at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No stacks are captured in this process.
    Stacks(&'static str),
    /// The stall is in progress, and the first attempt to capture a stack is not over.
    NotCaptured,
    /// A stack was captured, but the symbolizer's thread is not done with it.
    NotSymbolized,
    /// The last attempt to capture a stack failed, or it shows no line.
    Capture(CaptureFailure),
    /// The thread was mostly running, but was only sampled while blocked.
    OnlyBlocked,
    /// The thread was mostly blocked, but was only sampled while running.
    OnlyRunning,
}

impl Missing {
    /// Returns the reason, and what to do about it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stacks(reason) => reason,
            Self::NotCaptured => {
                "no stack yet: the first one is still being captured; the next report of the stall \
                 has it"
            }
            Self::NotSymbolized => {
                "no line yet: the debug information of the program is still being read for this \
                 stack; `recent_stalls` and `/stalls` show the line later"
            }
            Self::Capture(failure) => failure.text(),
            Self::OnlyBlocked => {
                "no representative stack: the thread was mostly running but was only sampled while \
                 blocked; enable `stack_signals(true)` to sample running threads"
            }
            Self::OnlyRunning => {
                "no representative stack: the thread was mostly blocked but was only sampled while \
                 running"
            }
        }
    }
}
