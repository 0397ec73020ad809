//! The ways in which an attempt to capture a stack ends without a line of the application.

/// Why an attempt to capture a stack has yielded no line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CaptureFailure {
    /// The thread continued during the copy, or blocked before the signal arrived.
    Torn,
    /// The thread was running, and signals are disabled.
    Running,
    /// The thread did not respond to the signal.
    Timeout,
    /// Not supported in this process.
    Unsupported,
    /// The poll ended first.
    Ended,
    /// All buffers were in use.
    NoBuffer,
    /// The signal was in use for another thread.
    SignalBusy,
    /// `/proc` cannot be read without a free file descriptor.
    NoDescriptor,
    /// The kernel has begun to refuse.
    Denied,
    /// The unwinder has met something that is no stack.
    Inconsistent,
    /// The thread is on another stack, on which there is no application frame.
    OtherStack,
    /// The stack is deeper than what is copied, and has no application frame as far as that.
    Truncated,
    /// The program has no line tables.
    NoLines,
    /// The program has no names either.
    NoSymbols,
    /// The program's file cannot be opened.
    NoFile,
    /// The debug information needs more memory than is allowed.
    TooLarge,
    /// The thread was running in the kernel, where no signal is delivered.
    InKernel,
    /// It is not known which thread runs the worker.
    NoThread,
}

impl CaptureFailure {
    pub(crate) const COUNT: usize = 18;
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::Torn,
        Self::Running,
        Self::Timeout,
        Self::Unsupported,
        Self::Ended,
        Self::NoBuffer,
        Self::SignalBusy,
        Self::NoDescriptor,
        Self::Denied,
        Self::Inconsistent,
        Self::OtherStack,
        Self::Truncated,
        Self::NoLines,
        Self::NoSymbols,
        Self::NoFile,
        Self::TooLarge,
        Self::InKernel,
        Self::NoThread,
    ];

    /// Returns the value of the label `result`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Torn => "torn",
            Self::Running => "running",
            Self::Timeout => "timeout",
            Self::Unsupported => "unsupported",
            Self::Ended => "ended",
            Self::NoBuffer => "no_buffer",
            Self::SignalBusy => "signal_busy",
            Self::NoDescriptor => "no_descriptor",
            Self::Denied => "denied",
            Self::Inconsistent => "inconsistent",
            Self::OtherStack => "other_stack",
            Self::Truncated => "truncated",
            Self::NoLines => "no_lines",
            Self::NoSymbols => "no_symbols",
            Self::NoFile => "no_file",
            Self::TooLarge => "too_large",
            Self::InKernel => "in_kernel",
            Self::NoThread => "no_thread",
        }
    }

    /// Returns the reason, and what to do about it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Torn => {
                "no stack: the thread continued while its stack was copied; if this repeats, it \
                 runs and sleeps by turns"
            }
            Self::Running => {
                "no stack: the thread was running; enable `stack_signals(true)` to sample running \
                 threads"
            }
            Self::Timeout => {
                "no stack: the thread did not respond to the signal in time; it waited for a core, \
                 or it blocks SIGURG"
            }
            Self::Unsupported => "no stack: stacks cannot be captured in this process",
            Self::Ended => {
                "no stack: the poll ended before its stack was captured; on a busy host the \
                 watchdog may be late"
            }
            Self::NoBuffer => {
                "no stack: all copies were in use; many workers were stalled at once, or the debug \
                 information was still being loaded"
            }
            Self::SignalBusy => {
                "no stack: the signal was in use for another thread; only one thread is sampled at \
                 a time"
            }
            Self::NoDescriptor => {
                "no stack: /proc cannot be read, because no file descriptor is free; raise the \
                 limit (`ulimit -n`), or look for a leak"
            }
            Self::Denied => {
                "no stack: the kernel denies access to /proc/self or to process_vm_readv since the \
                 start; after setuid call prctl(PR_SET_DUMPABLE, 1), and let seccomp filters pass \
                 these calls"
            }
            Self::Inconsistent => {
                "no stack: the copied stack was inconsistent; code without unwinding tables, such \
                 as from a just-in-time compiler, cannot be unwound"
            }
            Self::OtherStack => {
                "no line: the thread runs on another stack, such as that of a coroutine, with no \
                 application frame on it"
            }
            Self::Truncated => {
                "no line: the stack is deeper than 2 MiB, and the application's frames are beyond \
                 that"
            }
            Self::NoLines => {
                "no line: build with `debug = \"line-tables-only\"` in the profile, and do not \
                 strip the binary"
            }
            Self::NoSymbols => {
                "no line: the binary is stripped of its symbols; remove `strip` from the profile, \
                 and set `debug = \"line-tables-only\"`"
            }
            Self::NoThread => {
                "no stack: it is not known which thread runs the worker, because the worker has \
                 been occupied since the monitor was started, or since `block_in_place` moved it"
            }
            Self::TooLarge => {
                "no line: the debug information of the program needs more memory than \
                 `symbol_memory` allows; raise it, or build with `debug = \"line-tables-only\"` and \
                 uncompressed"
            }
            Self::InKernel => {
                "no stack: the thread was running in the kernel all along, in one long system call \
                 or page fault, where no signal is delivered; or it blocks SIGURG"
            }
            Self::NoFile => {
                "no line: the program's file cannot be opened; it is not readable, or it is a \
                 library that has been replaced"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_label_a_text_and_a_line_in_the_documentation() {
        let metrics = include_str!("../docs/metrics.md");
        for (index, failure) in CaptureFailure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, index);
            assert!(metrics.contains(&format!("  - `{}`", failure.label())), "{failure:?}");
            let same = |other: &CaptureFailure| {
                other.label() == failure.label() || other.text() == failure.text()
            };
            assert_eq!(CaptureFailure::ALL.iter().filter(|other| same(other)).count(), 1);
        }
    }
}
