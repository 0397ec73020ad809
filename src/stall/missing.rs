/// Why a report has no line of code, or no stack at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No stacks are captured in this process.
    Stacks(&'static str),
    /// The thread was running, and signals are not enabled.
    Running,
    /// No capture succeeded.
    NotCaptured,
    /// A stack was captured, but the symbolizer's thread is not done with it.
    NotSymbolized,
    /// The thread was mostly running, but was only sampled while blocked.
    OnlyBlocked,
    /// The thread was mostly blocked, but was only sampled while running.
    OnlyRunning,
    /// The program has no line tables.
    Lines,
}

impl Missing {
    /// Returns the reason, and what to do about it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stacks(reason) => reason,
            Self::Running => {
                "no stack: the thread was running; enable `stack_signals(true)` to sample running \
                 threads"
            }
            Self::NotCaptured => "no stack: sampling failed or the copied stack was inconsistent",
            Self::NotSymbolized => {
                "no line yet: the debug information of the program is still being read for this \
                 stack; `recent_stalls` and `/stalls` show the line later"
            }
            Self::OnlyBlocked => {
                "no representative stack: the thread was mostly running but was only sampled while \
                 blocked"
            }
            Self::OnlyRunning => {
                "no representative stack: the thread was mostly blocked but was only sampled while \
                 running"
            }
            Self::Lines => {
                "no line: build with `debug = \"line-tables-only\"` in the profile, and do not \
                 strip the binary"
            }
        }
    }
}
