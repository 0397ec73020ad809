//! A stall as it is told to people and programs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::outcome::Phase;

/// A poll that lasted longer than the stall threshold, over or still in progress.
///
/// Its `Display` is the report for people, of several lines.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stall {
    pub(crate) method: &'static str,
    pub(crate) route: Arc<str>,
    pub(crate) phase: Phase,
    #[cfg_attr(feature = "serde", serde(rename = "duration_seconds", serialize_with = "seconds"))]
    pub(crate) duration: Duration,
    #[cfg_attr(feature = "serde", serde(rename = "threshold_seconds", serialize_with = "seconds"))]
    pub(crate) threshold: Duration,
    pub(crate) in_progress: bool,
    pub(crate) cause: Cause,
    pub(crate) syscall: Option<&'static str>,
    pub(crate) detail: Option<Arc<str>>,
    pub(crate) worker: Option<usize>,
    pub(crate) held_up: usize,
    pub(crate) io_starved: bool,
    pub(crate) rescued: bool,
    pub(crate) frames: Arc<[Frame]>,
    pub(crate) missing: Option<Missing>,
}

/// Why a report has no line of code, or no stack at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
pub(crate) enum Missing {
    /// No stack is taken in this process.
    Stacks(&'static str),
    /// The thread ran, and is not to be interrupted.
    Running,
    /// It was not caught, or what was copied made no sense.
    NotCaught,
    /// It ran for most of the time, and was caught in its sleep alone.
    OnlyAsleep,
    /// It slept for most of the time, and was caught while it ran alone.
    OnlyRunning,
    /// The program has no line tables.
    Lines,
}

/// Why a poll lasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Cause {
    /// The thread was running.
    Cpu,
    /// The thread was asleep in a system call or on a lock.
    Blocked,
    /// The thread could have run, but the machine or the cgroup's quota ran something else.
    Preempted,
    /// The whole process was stopped.
    Paused,
    /// Not known: the poll was over before the watchdog saw it, or the system does not tell.
    Unknown,
}

/// One call of a stalled thread's stack.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Frame {
    pub(crate) function: String,
    pub(crate) location: Option<Location>,
    pub(crate) is_application: bool,
}

/// A line of source code.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Location {
    pub(crate) file: String,
    pub(crate) line: u32,
}

// === impl Stall ===

impl Stall {
    /// The request's method: one of the nine standard ones, `OTHER`, or `TASK` for an instrumented task.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method
    }

    /// The request's route, or the instrumented task's name.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }

    /// Whether it was the handler or the body that held the thread.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How long the poll lasted, or has lasted so far. Wall clock, monotonic.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// The stall threshold that the poll exceeded.
    #[must_use]
    pub fn threshold(&self) -> Duration {
        self.threshold
    }

    /// Whether the poll had not returned yet.
    #[must_use]
    pub fn is_in_progress(&self) -> bool {
        self.in_progress
    }

    /// Why the poll lasted.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// The system call the thread was in, where that is known.
    #[must_use]
    pub fn syscall(&self) -> Option<&str> {
        self.syscall
    }

    /// One more fact about the cause, where there is one: what the file descriptor of the system call leads to, such as
    /// `socket to 10.0.0.7:5432`, or what kept the thread off the cores.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// The index of the runtime's worker that was held. `None` for a thread that is not a worker of the watched runtime, such as
    /// the one that runs `block_on` of a runtime of several threads.
    #[must_use]
    pub fn worker(&self) -> Option<usize> {
        self.worker
    }

    /// How many other requests were in flight on this monitor when the stall was seen. On a runtime of one thread all of
    /// them stood still; on one of several those did that needed the held worker.
    #[must_use]
    pub fn held_up(&self) -> usize {
        self.held_up
    }

    /// Whether the runtime's timers and I/O stood still when the stall was seen, which holds up everybody. Known on Unix only.
    #[must_use]
    pub fn is_io_starved(&self) -> bool {
        self.io_starved
    }

    /// Whether another worker took timers and I/O over after the watchdog's nudge.
    #[must_use]
    pub fn is_rescued(&self) -> bool {
        self.rescued
    }

    /// The first line of code on the stack that is the user's, where a stack was taken.
    #[must_use]
    pub fn location(&self) -> Option<&Location> {
        self.frames.iter().find(|frame| frame.is_application).and_then(Frame::location)
    }

    /// The stack inside the handler, innermost call first; empty where none was taken.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Why there is no line of code, or no stack at all, and what to do about it. `None` where both are there.
    #[must_use]
    pub fn missing(&self) -> Option<&str> {
        self.missing.map(Missing::as_str)
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, still) = if self.in_progress { ("has held", ", still going on") } else { ("held", "") };
        let (duration, threshold) = (Millis(self.duration), Millis(self.threshold));
        write!(f, "{} {} {verb} its thread for {duration}{still} (threshold {threshold})", self.method, self.route)?;
        write!(f, "\n  in: {}", self.phase.as_str())?;
        if let Some(worker) = self.worker {
            write!(f, ", worker {worker}")?;
        }
        write!(f, ", cause: {}", self.cause.as_str())?;
        if let Some(syscall) = self.syscall {
            write!(f, " in `{syscall}`")?;
        }
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        if let Some(location) = self.location() {
            write!(f, "\n  at: {location}")?;
        }
        match self.held_up {
            0 => write!(f, "\n  no other request was in flight")?,
            1 => write!(f, "\n  1 other request was in flight and could not count on this thread")?,
            n => write!(f, "\n  {n} other requests were in flight and could not count on this thread")?,
        }
        f.write_str(match (self.io_starved, self.rescued) {
            (true, true) => "\n  all timers and I/O of the runtime stood still until a nudge woke another worker",
            (true, false) => "\n  all timers and I/O of the runtime stood still",
            (false, _) => "",
        })?;
        if let Some(missing) = self.missing() {
            write!(f, "\n  {missing}")?;
        }
        self.frames.iter().try_for_each(|frame| write!(f, "\n    {frame}"))
    }
}

/// Milliseconds with as many digits as a reader needs.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_secs_f64() * 1e3;
        let digits = if millis < 10.0 { 1 } else { 0 };
        write!(f, "{millis:.digits$} ms")
    }
}

#[cfg(feature = "serde")]
fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

// === impl Missing ===

impl Missing {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stacks(why) => why,
            Self::Running => {
                "no stack: the thread was running; with `stack_signals(true)` it is interrupted for an instant to copy it"
            }
            Self::NotCaught => "no stack: the thread was not caught, or its stack made no sense",
            Self::OnlyAsleep => "no stack of where most of the time went: the thread was only caught asleep",
            Self::OnlyRunning => "no stack of where most of the time went: the thread was only caught running",
            Self::Lines => {
                "no lines: build with `debug = \"line-tables-only\"` in the profile, and do not strip the program"
            }
        }
    }
}

// === impl Cause ===

impl Cause {
    /// The value of the label `cause`.
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

// === impl Frame ===

impl Frame {
    /// The function's name, as far as the binary tells it.
    #[must_use]
    pub fn function(&self) -> &str {
        &self.function
    }

    /// Whether it is code of the application: not of the standard library, a dependency or a C library, and not generated by a
    /// build script.
    #[must_use]
    pub fn is_application(&self) -> bool {
        self.is_application
    }

    /// Where in the source the call is.
    #[must_use]
    pub fn location(&self) -> Option<&Location> {
        self.location.as_ref()
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Some(location) => write!(f, "{} at {location}", self.function),
            None => f.write_str(&self.function),
        }
    }
}

// === impl Location ===

impl Location {
    /// The path of the file, as the compiler was given it.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The line, from 1.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.line
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Stall {
        pub(crate) fn for_tests<const N: usize>(frames: [Frame; N]) -> Self {
            Self {
                method: "GET",
                route: "/report".into(),
                phase: Phase::Handler,
                duration: Duration::from_micros(212_400),
                threshold: Duration::from_millis(25),
                in_progress: false,
                cause: Cause::Unknown,
                syscall: None,
                worker: Some(1),
                held_up: 37,
                io_starved: true,
                rescued: true,
                frames: frames.into(),
                missing: None,
                detail: None,
            }
        }
    }

    fn stall() -> Stall {
        Stall::for_tests([])
    }

    #[test]
    fn the_report_says_who_how_long_and_who_waited() {
        let text = stall().to_string();
        let expected = "GET /report held its thread for 212 ms (threshold 25 ms)\n  \
                        in: handler, worker 1, cause: unknown\n  \
                        37 other requests were in flight and could not count on this thread\n  \
                        all timers and I/O of the runtime stood still until a nudge woke another worker";
        assert_eq!(text, expected);
    }

    #[test]
    fn one_in_progress_says_so() {
        let stall = Stall { in_progress: true, io_starved: false, held_up: 0, worker: None, ..stall() };
        let text = stall.to_string();
        assert!(text.starts_with("GET /report has held its thread for 212 ms, still going on"), "{text}");
        assert!(text.ends_with("no other request was in flight"), "{text}");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serialized_in_seconds_and_with_label_values() {
        let json = serde_json::to_value(stall()).unwrap();
        assert_eq!(json["duration_seconds"], 0.2124);
        assert_eq!(json["phase"], "handler");
        assert_eq!(json["cause"], "unknown");
    }
}
