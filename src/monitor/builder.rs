use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::StallMonitor;
use crate::error::Error;
use crate::os::Clock;
use crate::report::Hook;
use crate::routes::RouteRequest;
use crate::stall::Stall;
use crate::state::{MonitorState, Options};
use crate::threads::MonitorGuard;

/// Configures a monitor. Returned by [`StallMonitor::builder`].
///
/// ```
/// use std::time::Duration;
///
/// use tower_stall::StallMonitor;
///
/// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
/// let monitor = StallMonitor::builder()
///     .stall_threshold(Duration::from_millis(50))
///     .stack_signals(true)
///     .spawn()?;
/// # Ok(()) }
/// ```
#[must_use = "a builder starts nothing until `spawn` is called"]
pub struct StallMonitorBuilder {
    stall_threshold: Duration,
    runtime: Option<Handle>,
    options: Options,
    rescue: bool,
    on_stall: Option<Hook>,
    reports_per_minute: u32,
}

impl StallMonitorBuilder {
    pub(super) fn new() -> Self {
        Self {
            stall_threshold: Duration::from_millis(25),
            runtime: None,
            options: Options {
                runtime_name: "main".into(),
                max_routes: 512,
                route_label: None,
                route_label_first: false,
                stacks: true,
                stack_signals: false,
                symbol_memory: 256 << 20,
            },
            rescue: true,
            on_stall: None,
            reports_per_minute: 10,
        }
    }

    /// Sets the stall threshold: a poll that takes longer is a stall. **Defaults to** 25 ms.
    ///
    /// Wall clock, monotonic. Thresholds over a day count as a day; [`spawn`](Self::spawn) rejects
    /// zero.
    ///
    /// On a host that is not overloaded, a stall of a measured poll is detected within a
    /// millisecond after it has exceeded the threshold. A stall of an unmeasured task that is
    /// blocked in one system call is detected within 10 ms, in an idle process within 75 ms. With a threshold under 20 ms the
    /// watchdog scans more often, at most once per millisecond. At any threshold, the pause before
    /// a poll becomes a stall may be as short as half a millisecond.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// let monitor = tower_stall::StallMonitor::builder()
    ///     .stall_threshold(Duration::from_millis(100))
    ///     .spawn()?;
    /// # Ok(()) }
    /// ```
    pub fn stall_threshold(mut self, threshold: Duration) -> Self {
        self.stall_threshold = threshold;
        self
    }

    /// Sets the runtime to watch. **Defaults to** the one that [`spawn`](Self::spawn) is called in.
    ///
    /// A monitor watches one runtime. Give each runtime a monitor with its own
    /// [`runtime_name`](Self::runtime_name).
    ///
    /// ```
    /// use tower_stall::StallMonitor;
    ///
    /// let runtime = tokio::runtime::Runtime::new()?;
    /// let monitor = StallMonitor::builder()
    ///     .runtime(runtime.handle().clone())
    ///     .runtime_name("background")
    ///     .spawn()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Sets the value of the label `runtime`. **Defaults to** `main`.
    ///
    /// [`spawn`](Self::spawn) rejects an empty name.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// let monitor = tower_stall::StallMonitor::builder().runtime_name("api").spawn()?;
    /// # Ok(()) }
    /// ```
    pub fn runtime_name(mut self, name: impl Into<String>) -> Self {
        self.options.runtime_name = name.into();
        self
    }

    /// Sets the maximum number of distinct (method, route) pairs. **Defaults to** 512.
    ///
    /// A pair counts from the first answer that only the code of a route gives, not one that routers
    /// give by themselves; see [cardinality](crate::guide::metrics#cardinality).
    ///
    /// [`spawn`](Self::spawn) rejects a number that is not between 1 and 16384.
    ///
    /// Requests of further pairs are counted under the route `overflow`, and in
    /// `tower_stall_routes_overflowed_total`; each of them takes a shared lock for reading. A pair
    /// takes about 2 KiB for each thread that serves it, and up to 80 histogram series.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// let monitor = tower_stall::StallMonitor::builder().max_routes(64).spawn()?;
    /// # Ok(()) }
    /// ```
    pub fn max_routes(mut self, routes: usize) -> Self {
        self.options.max_routes = routes;
        self
    }

    /// Sets a function that returns the route of a request, for services that are not axum routers.
    /// **Defaults to** none: such requests are `unmatched`.
    ///
    /// It is called only if axum has not matched a route, unless
    /// [`route_label_first`](Self::route_label_first) is set. It runs on the poll path, once per
    /// request and layer, so it should be fast; a `'static` label needs no allocation.
    ///
    /// Return patterns such as `/users/{id}`, never raw paths: each distinct value becomes a label
    /// value, up to [`max_routes`](Self::max_routes). Control characters, quotes and backslashes
    /// are replaced by `_`, and values are cut off after 256 bytes. `None` is `unmatched`.
    ///
    /// ```
    /// use tower_stall::StallMonitor;
    ///
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// let monitor = StallMonitor::builder()
    ///     .route_label(|request| match request.uri().path() {
    ///         "/" => Some("/".into()),
    ///         path if path.starts_with("/files/") => Some("/files/{path}".into()),
    ///         _ => None,
    ///     })
    ///     .spawn()?;
    /// # Ok(()) }
    /// ```
    pub fn route_label(
        mut self,
        label: impl Fn(&RouteRequest<'_>) -> Option<Cow<'static, str>> + Send + Sync + 'static,
    ) -> Self {
        self.options.route_label = Some(Arc::new(label));
        self
    }

    /// Sets whether [`route_label`](Self::route_label) is called before axum's matched path is
    /// used. **Defaults to** `false`.
    ///
    /// The matched path is then used for the requests for which the function returns `None`. The
    /// function is called for every request then.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// let monitor = tower_stall::StallMonitor::builder()
    ///     .route_label(|request| {
    ///         let is_probe = request.headers().contains_key("x-probe");
    ///         is_probe.then(|| "probe".into())
    ///     })
    ///     .route_label_first(true)
    ///     .spawn()?;
    /// # Ok(()) }
    /// ```
    pub fn route_label_first(mut self, first: bool) -> Self {
        self.options.route_label_first = first;
        self
    }

    /// Sets whether driver starvation is resolved. **Defaults to** `true`.
    ///
    /// One worker at a time drives the timers and sockets of a multi-threaded runtime. If that
    /// worker is inside a long poll, tokio does not wake another one to take over, and no timer or
    /// socket makes progress although workers are idle. While a poll has taken 5 ms or more, the
    /// watchdog therefore wakes an empty task every few milliseconds: an idle worker runs it, and
    /// takes over the I/O driver when it parks again.
    ///
    /// It cannot help a current-thread runtime, a runtime whose workers are all stalled, the task
    /// in the stalled worker's LIFO slot, which no other worker may take, or the connection whose
    /// handler stalls.
    ///
    /// Without it starvation is still detected and reported. While no poll takes 5 ms, it costs
    /// nothing.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// let monitor = tower_stall::StallMonitor::builder().rescue(false).spawn()?;
    /// # Ok(()) }
    /// ```
    pub fn rescue(mut self, rescue: bool) -> Self {
        self.rescue = rescue;
        self
    }

    /// Sets whether the stacks of stalled threads are captured, which gives reports their line of
    /// code. **Defaults to** `true`.
    ///
    /// Only the stack of a thread that is blocked in a system call is captured: the watchdog copies
    /// it with `process_vm_readv` while the thread cannot change it. The thread is neither stopped
    /// nor signaled. Supported on x86_64 Linux, and on aarch64 Linux with glibc, where `/proc` and that
    /// call are permitted; elsewhere no stack is captured, [`Stall::missing`] says so, and everything
    /// else
    /// works.
    ///
    /// The first stack costs a thread of the monitor some 30 ms and the process some 35 MB, for the
    /// debug information of a program of 15 MB; see [`guide::costs`](crate::guide::costs).
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// let monitor = tower_stall::StallMonitor::builder().stacks(false).spawn()?;
    /// # Ok(()) }
    /// ```
    pub fn stacks(mut self, stacks: bool) -> Self {
        self.options.stacks = stacks;
        self
    }

    /// Sets whether a stalled thread that is *running* is interrupted, so that the line of a busy
    /// loop is known as well. **Defaults to** `false`.
    ///
    /// One `SIGURG` is sent to that thread alone. The handler copies the registers and a few
    /// kilobytes of the stack, and returns. A previously installed handler receives all other
    /// `SIGURG` signals, and is restored when the last monitor with signals ends.
    ///
    /// System calls are restarted (`SA_RESTART`), except a few for which the flag has no effect:
    /// `poll`, `epoll_wait`, `nanosleep`, and reads of a socket with a timeout return `EINTR` if
    /// the thread enters one in the microseconds between the sample and the signal. The standard
    /// library and tokio continue by themselves in all but the last case.
    ///
    /// Where the kernel does not tell where a thread is blocked, as in gVisor, a stalled thread is
    /// interrupted although it is blocked: its system call is restarted, or returns `EINTR` if it is
    /// one of those above.
    ///
    /// A signal costs the thread 1 µs, and 5 µs at the 99th percentile. It has no effect where
    /// [`stacks`](Self::stacks) are not supported. [`spawn`](Self::spawn) returns an error if the
    /// handler cannot be installed.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// let monitor = tower_stall::StallMonitor::builder().stack_signals(true).spawn()?;
    /// # Ok(()) }
    /// ```
    pub fn stack_signals(mut self, signals: bool) -> Self {
        self.options.stack_signals = signals;
        self
    }

    /// Sets how much memory the debug information of the program may need, in bytes. **Defaults to**
    /// 256 MiB.
    ///
    /// The need is estimated before anything is read: what is compressed is decompressed whole, and
    /// of the rest about an eighth of `.debug_info`, and 64 bytes for each symbol, are kept. If it
    /// is more, reports have neither lines nor names: they say so, with the build id of the program
    /// and the offsets in it, and are counted as `too_large` in
    /// `tower_stall_stack_captures_total`. `0` reads none.
    ///
    /// The file is mapped. Its pages, which the kernel takes back when it needs them, do not count;
    /// nor do files with split debug information (`.dwp`, `.dwo`). All of the memory is given back
    /// once no stack has been symbolized for 30 s, and is needed again for the next one.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// let monitor = tower_stall::StallMonitor::builder().symbol_memory(64 << 20).spawn()?;
    /// # Ok(()) }
    /// ```
    pub fn symbol_memory(mut self, bytes: usize) -> Self {
        self.options.symbol_memory = bytes as u64;
        self
    }

    /// Sets a function that is called with each stall: when it ends, and at each report while it is
    /// in progress (at 1 s, and each time its age has doubled). **Defaults to** none.
    ///
    /// It is not rate-limited by [`reports_per_minute`](Self::reports_per_minute). It runs on a
    /// thread of its own, outside the runtime, once the stack of the stall is symbolized, which
    /// takes a minute at most.
    ///
    /// It may block: further calls then wait, and nothing else does. Up to 1024 calls wait; further
    /// ones are counted in `tower_stall_events_dropped_total`, and so is a call for a stall in
    /// progress that has waited for more than a second. If the stall has ended meanwhile, the call
    /// for its end follows. A panic in the function is caught, and counted in
    /// `tower_stall_hook_panics_total`. A [`StallMonitor`] in it keeps the monitor alive.
    ///
    /// ```
    /// use tower_stall::{Cause, StallMonitor};
    ///
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// let monitor = StallMonitor::builder()
    ///     .on_stall(|stall| {
    ///         if stall.cause() == Cause::Blocked {
    ///             eprintln!("{stall:#}");
    ///         }
    ///     })
    ///     .spawn()?;
    /// # Ok(()) }
    /// ```
    pub fn on_stall(mut self, hook: impl Fn(&Stall) + Send + Sync + 'static) -> Self {
        self.on_stall = Some(Box::new(hook));
        self
    }

    /// Sets how many reports each line of a route may write per minute, in a burst or spread out.
    /// **Defaults to** 10; 0 suppresses all reports.
    ///
    /// Metrics, [`on_stall`](Self::on_stall) and [`recent_stalls`](StallMonitor::recent_stalls) are
    /// never limited. Suppressed reports are counted in `tower_stall_reports_suppressed_total`, and
    /// in the field `suppressed` of the next report.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// let monitor = tower_stall::StallMonitor::builder().reports_per_minute(1).spawn()?;
    /// # Ok(()) }
    /// ```
    pub fn reports_per_minute(mut self, reports: u32) -> Self {
        self.reports_per_minute = reports;
        self
    }

    /// Starts the monitor: six [threads](crate::guide::costs#a-monitor), or seven with a hook, and
    /// two small tasks inside the runtime. Nothing else in this crate starts any, except
    /// [`prometheus::serve`](crate::prometheus::serve).
    ///
    /// The first call in a process calibrates the time stamp counter against the OS clock, which
    /// takes about a millisecond and at most 200 ms.
    ///
    /// Keep the monitor, one of its layers or one of their services: the monitor stops when the
    /// last of them is dropped, which `let _ = builder.spawn()` does at once.
    ///
    /// Reports go to the `tracing` subscriber that is current here, or to the process-wide one if
    /// there is none yet.
    ///
    /// # Errors
    ///
    /// Returns an error outside a runtime, unless one was passed to [`runtime`](Self::runtime); if
    /// the runtime has no timer; if an option is out of range; or if the operating system refuses a
    /// thread, a pair of sockets or, with [`stack_signals`](Self::stack_signals), the signal
    /// handler.
    ///
    /// A runtime without an I/O driver is watched, but driver starvation is not detected on it,
    /// which is logged once. Whether a runtime has a driver can only be determined by a call that
    /// panics if it has none: the panic is caught, but the panic hook sees it, and a binary built
    /// with `panic = "abort"` aborts with tokio's message.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// let monitor = tower_stall::StallMonitor::builder().spawn()?;
    /// # Ok(()) }
    /// ```
    pub fn spawn(self) -> Result<StallMonitor, Error> {
        Error::check_threshold(self.stall_threshold)?;
        Error::check_max_routes(self.options.max_routes)?;
        Error::check_runtime_name(&self.options.runtime_name)?;
        let runtime = match self.runtime {
            Some(runtime) => runtime,
            None => Handle::try_current().map_err(|_| Error::no_runtime())?,
        };
        let monitor = MonitorState::new(Clock::new(), runtime, self.options);
        monitor.set_threshold(self.stall_threshold);
        let guard =
            MonitorGuard::start(monitor, self.on_stall, self.reports_per_minute, self.rescue)?;
        Ok(StallMonitor { guard: Arc::new(guard) })
    }
}

impl fmt::Debug for StallMonitorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StallMonitorBuilder")
            .field("stall_threshold", &self.stall_threshold)
            .field("runtime_name", &self.options.runtime_name)
            .field("max_routes", &self.options.max_routes)
            .field("route_label_first", &self.options.route_label_first)
            .field("stacks", &self.options.stacks)
            .field("stack_signals", &self.options.stack_signals)
            .field("symbol_memory", &self.options.symbol_memory)
            .field("rescue", &self.rescue)
            .field("reports_per_minute", &self.reports_per_minute)
            .finish_non_exhaustive()
    }
}
