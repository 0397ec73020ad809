//! A stall, as it is reported.

mod capture_failure;
mod cause;
mod delayed;
mod display;
mod frame;
#[cfg(feature = "serde")]
mod json;
mod missing;
mod phase;
mod time_split;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::capture_failure::CaptureFailure;
pub use self::cause::Cause;
pub use self::delayed::Delayed;
pub use self::frame::{Frame, Location};
pub(crate) use self::missing::Missing;
pub use self::phase::Phase;
pub(crate) use self::time_split::TimeSplit;

/// A poll that took longer than the stall threshold, ended or still in progress.
///
/// Returned by [`StallMonitor::recent_stalls`](crate::StallMonitor::recent_stalls), and passed to
/// [`on_stall`](crate::StallMonitorBuilder::on_stall).
///
/// ```
/// use tower_stall::{Cause, Phase, Stall};
///
/// /// Describes a stall that has ended in a handler, for a program's own report.
/// fn describe(stall: &Stall) -> Option<String> {
///     if stall.is_in_progress() || stall.phase() != Phase::Handler {
///         return None;
///     }
///     let what = match stall.cause() {
///         Cause::Blocked => format!("{:?} {:?}", stall.syscall(), stall.detail()),
///         Cause::Preempted | Cause::Paused => return None,
///         cause => cause.to_string(),
///     };
///     let line = match stall.location() {
///         Some(location) => location.to_string(),
///         None => stall.missing().unwrap_or_default().to_owned(),
///     };
///     let is_critical = stall.is_io_starved() && !stall.is_rescued();
///     Some(format!(
///         "{} {} took {:?} (threshold {:?}) on worker {:?}, beside {} others: {what}, {line}, \
///          {} frames, critical: {is_critical}",
///         stall.method(),
///         stall.route(),
///         stall.duration(),
///         stall.threshold(),
///         stall.worker(),
///         stall.in_flight(),
///         stall.frames().len(),
///     ))
/// }
/// ```
///
/// # Where the time went
///
/// [`cpu_time`](Self::cpu_time), [`off_cpu_time`](Self::off_cpu_time),
/// [`run_queue_time`](Self::run_queue_time) and [`stopped_time`](Self::stopped_time) add up to
/// [`duration`](Self::duration) exactly. The first two are the code's own time, the other two are
/// host delays. The watchdog's first sample of a poll is at an age of about 5 ms, later if the
/// watchdog itself is delayed. Of the time before, what the watchdog waited in the run queue counts
/// as run queue, and the rest is divided in proportion to the time after, within what the accounts
/// of the thread allow. Without a sample, which is the rule where the system does not tell the CPU
/// time of threads, all time but that of known host delays counts as off-CPU.
///
/// ```
/// # fn example(stall: &tower_stall::Stall) {
/// let own = stall.cpu_time() + stall.off_cpu_time();
/// let host = stall.run_queue_time() + stall.stopped_time();
/// assert_eq!(own + host, stall.duration());
/// println!("{own:?} by the code, {host:?} by the host");
/// # }
/// ```
///
/// # Text
///
/// `{}` displays a stall on one line, which is the message of its event. `{:#}` displays the report
/// of several lines, with the stack.
///
/// ```
/// # fn example(monitor: &tower_stall::StallMonitor) {
/// for stall in monitor.recent_stalls() {
///     println!("{stall:#}\n");
/// }
/// # }
/// ```
///
/// # JSON
///
/// With the feature `serde`, a stall serializes to an object of the following shape. Fields may be
/// added; `null` means unknown or not applicable.
///
/// ```json
/// {
///   "method": "GET",
///   "route": "/report",
///   "phase": "handler",
///   "duration_seconds": 0.212,
///   "cpu_seconds": 0.001,
///   "off_cpu_seconds": 0.211,
///   "run_queue_seconds": 0.0,
///   "stopped_seconds": 0.0,
///   "threshold_seconds": 0.025,
///   "in_progress": false,
///   "cause": "blocked",
///   "syscall": "recvfrom",
///   "detail": "socket to 10.0.0.7:5432",
///   "worker": 1,
///   "in_flight": 37,
///   "io_starved": true,
///   "rescued": true,
///   "delayed": [
///     {
///       "method": "GET",
///       "route": "/users/{id}",
///       "requests": 9,
///       "total_seconds": 1.5,
///       "longest_seconds": 0.205
///     }
///   ],
///   "delay_caused_seconds": 1.5,
///   "location": { "file": "src/billing.rs", "line": 87 },
///   "frames": [
///     {
///       "function": "app::billing::invoices",
///       "location": { "file": "src/billing.rs", "line": 87 },
///       "address": null,
///       "is_application": true
///     }
///   ],
///   "missing": null
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Stall {
    pub(crate) method: &'static str,
    pub(crate) route: Arc<str>,
    pub(crate) phase: Phase,
    pub(crate) duration: Duration,
    pub(crate) split: TimeSplit,
    pub(crate) threshold: Duration,
    pub(crate) in_progress: bool,
    pub(crate) cause: Cause,
    pub(crate) syscall: Option<&'static str>,
    pub(crate) detail: Option<Arc<str>>,
    pub(crate) worker: Option<usize>,
    pub(crate) in_flight: usize,
    pub(crate) io_starved: bool,
    pub(crate) rescued: bool,
    pub(crate) delayed: Arc<[Delayed]>,
    pub(crate) frames: Arc<[Frame]>,
    pub(crate) missing: Option<Missing>,
}

impl Stall {
    /// Returns the request's method: one of the nine standard methods, `OTHER`, or `TASK` for an
    /// instrumented task.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method
    }

    /// Returns the request's route, or the name of the instrumented task.
    ///
    /// `unmatched` if no route matched, `overflow` if the route exceeds
    /// [`max_routes`](crate::StallMonitorBuilder::max_routes), `unattributed` for a stall outside
    /// any measured poll.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }

    /// Returns whether the handler or the body stalled the thread.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns how long the poll took, or has taken so far. Wall clock, monotonic.
    ///
    /// The age of the poll while it is in progress. Once it has ended, stalls nested in it, which
    /// are reported separately, do not count. Neither does the time after a `block_in_place` that
    /// has handed off the worker.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Returns for how long the thread was on-CPU; see [where the time went](Self#where-the-time-went).
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        self.split.cpu
    }

    /// Returns for how long the thread was off-CPU: in a system call, on a lock, or waiting for a
    /// page of memory. Includes time of which nothing is known; see
    /// [where the time went](Self#where-the-time-went).
    #[must_use]
    pub fn off_cpu_time(&self) -> Duration {
        self.split.off_cpu
    }

    /// Returns for how long the thread was runnable, but other threads or the CPU quota of its
    /// control group kept it off the CPU; see [where the time went](Self#where-the-time-went).
    #[must_use]
    pub fn run_queue_time(&self) -> Duration {
        self.split.run_queue
    }

    /// Returns for how long the whole process was stopped, as by `SIGSTOP`, a freezer or a suspended
    /// host; see [where the time went](Self#where-the-time-went).
    ///
    /// A stop of less than 10 ms is not noticed. Timers of the kernel go on during a stop: a
    /// blocking sleep that would have ended in the meantime ends with the stop, and only the part
    /// before the stop is its own.
    #[must_use]
    pub fn stopped_time(&self) -> Duration {
        self.split.stopped
    }

    /// Returns the stall threshold that the poll exceeded.
    #[must_use]
    pub fn threshold(&self) -> Duration {
        self.threshold
    }

    /// Returns whether the poll was still running when it was reported.
    #[must_use]
    pub fn is_in_progress(&self) -> bool {
        self.in_progress
    }

    /// Returns why the poll took so long. [`Cause::Unknown`] where the
    /// system does not tell; see [the platforms](crate#platforms).
    ///
    /// If the code's own time exceeds the threshold, the code is the cause, whatever the host has
    /// added: [`Cpu`](Cause::Cpu) or [`Blocked`](Cause::Blocked), by the larger share. The host is
    /// the cause only of what would have been no stall without it.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Returns the system call that the thread was blocked in, if it is known. Linux only.
    #[must_use]
    pub fn syscall(&self) -> Option<&str> {
        self.syscall
    }

    /// Returns a detail of the cause: what the file descriptor of the system call refers to, such
    /// as `socket to 10.0.0.7:5432`, what kept the thread off the CPU, such as the CPU quota, or the
    /// call in which a thread on-CPU was running in the kernel, such as ``in the kernel: `read` ``.
    /// What a descriptor refers to is known only with a stack, and a call in the kernel only with
    /// signals.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// Returns the index of the stalled worker. `None` for a thread that is not a worker of the
    /// watched runtime, such as the one that calls `block_on` of a multi-threaded runtime.
    #[must_use]
    pub fn worker(&self) -> Option<usize> {
        self.worker
    }

    /// Returns the number of other requests in flight on this monitor when the stall ended, or when
    /// this report of one in progress was made.
    ///
    /// Where the [socket wait](crate::guide::requests#socket-wait) is measured, this includes the
    /// requests whose bytes waited in a socket at the end of the stall.
    ///
    /// It is an upper bound of the requests that were delayed. On a current-thread runtime none of
    /// them could make progress; on a multi-threaded one some may have run on other workers.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Returns which requests the stall has delayed, by route, most harm first: those that could have
    /// been polled, but waited for its poll to end. Empty if there are none that are known.
    ///
    /// It is complete for what was waiting when the stall ended, up to a tenth of a second after;
    /// a stall in progress has delayed mostly requests that still wait. Delays of less than 1 ms by
    /// this stall do not count, and neither does what the runtime does not show: see
    /// [who delayed whom](crate::guide::reports#who-delayed-whom).
    #[must_use]
    pub fn delayed(&self) -> &[Delayed] {
        &self.delayed
    }

    /// Returns the sum of the delays that the stall has caused: the harm that it has done. See
    /// [`delayed`](Self::delayed).
    #[must_use]
    pub fn delay_caused(&self) -> Duration {
        self.delayed.iter().map(|delayed| delayed.total).sum()
    }

    /// Returns whether the runtime's I/O driver was starved during the stall, in which case no
    /// timer fires and no socket is serviced. Known on Unix, on runtimes with I/O.
    #[must_use]
    pub fn is_io_starved(&self) -> bool {
        self.io_starved
    }

    /// Returns whether another worker took over the I/O driver after the watchdog woke it.
    #[must_use]
    pub fn is_rescued(&self) -> bool {
        self.rescued
    }

    /// Returns the line of the innermost application frame, if a stack was captured; see
    /// [`guide::compatibility`](crate::guide::compatibility) for the platforms.
    #[must_use]
    pub fn location(&self) -> Option<&Location> {
        self.frames.iter().find(|frame| frame.is_application).and_then(Frame::location)
    }

    /// Returns the stack from the innermost call to the handler; empty if none was captured.
    ///
    /// Between application frames, those of libraries that only pass a request on are left out.
    /// Of more than 64 frames the 40 innermost and the 24 outermost ones are kept, with a frame
    /// between them that states how many are missing. A stack of more than 2 MiB is cut off at its
    /// outer end, and the last frame says so.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Returns why there is no line of code, or no stack at all, and what to do about it. `None` if
    /// both are present, or if the host caused the stall.
    #[must_use]
    pub fn missing(&self) -> Option<&str> {
        self.missing.map(Missing::as_str)
    }
}

#[cfg(test)]
impl Stall {
    pub(crate) fn for_tests<const N: usize>(frames: [Frame; N]) -> Self {
        Self {
            method: "GET",
            route: "/report".into(),
            phase: Phase::Handler,
            duration: Duration::from_micros(212_400),
            split: TimeSplit {
                cpu: Duration::from_micros(400),
                off_cpu: Duration::from_micros(212_000),
                ..TimeSplit::default()
            },
            threshold: Duration::from_millis(25),
            in_progress: false,
            cause: Cause::Unknown,
            syscall: None,
            detail: None,
            worker: Some(1),
            in_flight: 37,
            io_starved: true,
            rescued: true,
            delayed: [("/users/{id}", 9, 1_500, 205), ("/health", 5, 400, 180)]
                .map(|(route, requests, total, longest)| Delayed {
                    method: "GET",
                    route: route.into(),
                    requests,
                    total: Duration::from_millis(total),
                    longest: Duration::from_millis(longest),
                })
                .into(),
            frames: frames.into(),
            missing: None,
        }
    }
}
