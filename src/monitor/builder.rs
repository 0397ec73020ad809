use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::StallMonitor;
use crate::clock::Clock;
use crate::error::{SpawnError, ThresholdError};
use crate::report::Hook;
use crate::routes::Routes;
use crate::shared::{RouteLabel, Shared, Stacks};
use crate::stall::Stall;
use crate::threads::Watch;

/// The options of a monitor. From [`StallMonitor::builder`].
#[must_use = "a builder watches nothing until `spawn`"]
pub struct StallMonitorBuilder {
    stall_threshold: Duration,
    runtime: Option<Handle>,
    runtime_name: String,
    max_routes: usize,
    route_label: Option<RouteLabel>,
    stacks: Stacks,
    rescue: bool,
    on_stall: Option<Hook>,
    reports_per_minute: u32,
}

impl StallMonitorBuilder {
    pub(super) fn new() -> Self {
        Self {
            stall_threshold: Duration::from_millis(25),
            runtime: None,
            runtime_name: "main".into(),
            max_routes: 512,
            route_label: None,
            stacks: Stacks { taken: true, signals: false },
            rescue: true,
            on_stall: None,
            reports_per_minute: 10,
        }
    }

    /// A poll that takes longer is a stall. **Defaults to** 25 ms. Wall clock, monotonic; more than a day is taken as a day.
    ///
    /// A stall that lasts is seen within a millisecond after it has passed the threshold on a machine that is not overloaded, and one of a
    /// task that nobody measures within 10 ms. Under 4 ms the watchdog looks once a millisecond, or twice, which costs more.
    pub fn stall_threshold(mut self, threshold: Duration) -> Self {
        self.stall_threshold = threshold;
        self
    }

    /// The runtime to watch. **Defaults to** the one that [`spawn`](Self::spawn) is called in.
    ///
    /// One monitor watches one runtime: give each runtime a monitor, with a [`runtime_name`](Self::runtime_name) of its own.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The value of the label `runtime`. **Defaults to** `main`.
    pub fn runtime_name(mut self, name: impl Into<String>) -> Self {
        self.runtime_name = name.into();
        self
    }

    /// How many distinct (method, route) pairs are told apart, from 1 to 16384. **Defaults to** 512.
    ///
    /// Requests of any further pair count under the route `overflow`, and in `tower_stall_routes_overflowed_total`; each takes a
    /// shared lock for reading. Each pair costs about 2 KiB for each thread that serves it, and up to 80 histogram series.
    pub fn max_routes(mut self, routes: usize) -> Self {
        self.max_routes = routes;
        self
    }

    /// Names the routes of services that are not axum routers; `None` is `unmatched`. **Defaults to** `None` for all.
    ///
    /// Not asked where axum has matched a route. It is called for each other request, by each layer that the request passes, in the poll path, so it
    /// should be quick. Return patterns, never raw paths: each distinct value becomes label values, until
    /// [`max_routes`](Self::max_routes) are known. Control characters, quotes and backslashes become `_`, and 256 bytes are kept.
    pub fn route_label(
        mut self,
        label: impl Fn(&http::Method, &http::Uri) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.route_label = Some(Arc::new(label));
        self
    }

    /// Whether to end driver starvation. **Defaults to** `true`.
    ///
    /// A tokio runtime of several workers has one worker look after all its timers and sockets. When that one is inside a long
    /// poll, tokio wakes none of the idle others to take its place, and the whole application stands still. So while a
    /// poll has lasted 5 ms or more, a task with nothing to do is woken every few milliseconds: an idle worker runs it, and takes the driver
    /// over when it goes back to sleep.
    ///
    /// It cannot help a runtime of one thread, nor one whose workers are all held, nor the one task that the held worker
    /// had next in its own slot (tokio's LIFO slot), which no other worker may take. And it cannot help the connection whose handler holds the
    /// worker.
    pub fn rescue(mut self, rescue: bool) -> Self {
        self.rescue = rescue;
        self
    }

    /// Whether to take the stacks of stalled threads, which give a report its line of code. **Defaults to** `true`.
    ///
    /// Only a thread that is asleep in a system call is looked at, from outside: its stack is copied, by `process_vm_readv`, while the
    /// thread cannot change it. The thread is neither stopped nor signalled. On x86_64 Linux with glibc, where `/proc` and that call
    /// are allowed; elsewhere no stack is taken, [`Stall::missing`] says so, and all the rest works. The first stack costs the
    /// reporter's thread some milliseconds and the process some megabytes for the program's debug information.
    pub fn stacks(mut self, stacks: bool) -> Self {
        self.stacks.taken = stacks;
        self
    }

    /// Whether to interrupt a stalled thread that is *running*, so that the line of a busy loop is known as well.
    /// **Defaults to** `false`.
    ///
    /// One `SIGURG` is sent to that thread alone; its handler copies the registers and a few kilobytes of the stack, and returns. A handler that
    /// was there before is called for all other such signals, and put back when the last monitor that signals ends.
    ///
    /// System calls are restarted (`SA_RESTART`), but a few are not, whatever the flag says: `poll`, `epoll_wait`, `nanosleep`, or a socket's read
    /// with a timeout return `EINTR` if the thread enters one between the look and the signal, some microseconds. std and tokio go
    /// on by themselves in all but the last.
    pub fn stack_signals(mut self, signals: bool) -> Self {
        self.stacks.signals = signals;
        self
    }

    /// Calls a function for each finished stall, and at each report of one in progress (at 1 s, and each time its age has
    /// doubled), whatever [`reports_per_minute`](Self::reports_per_minute) says.
    ///
    /// It runs on the reporter's thread, off the runtime. It may block; reports and metrics then wait, polls do not. A
    /// panic in it is contained, and counted in `tower_stall_hook_panics_total`; stalls that found the reporter's queue of 1024 full are
    /// counted in `tower_stall_events_dropped_total`. Do not keep a [`StallMonitor`] in it: the monitor would never end.
    pub fn on_stall(mut self, hook: impl Fn(&Stall) + Send + Sync + 'static) -> Self {
        self.on_stall = Some(Box::new(hook));
        self
    }

    /// How many reports each culprit, a line of a route, may write a minute, in a burst or spread. **Defaults to** 10; 0 writes none.
    ///
    /// Metrics, [`on_stall`](Self::on_stall) and [`recent_stalls`](StallMonitor::recent_stalls) are never limited. What is left out is
    /// counted in `tower_stall_reports_suppressed_total` and in the next report's field `suppressed`.
    pub fn reports_per_minute(mut self, reports: u32) -> Self {
        self.reports_per_minute = reports;
        self
    }

    /// Starts to watch: three threads and two small tasks inside the runtime. Nothing else in this crate starts any.
    ///
    /// The first call in a process compares the time stamp counter with the OS clock, which takes about a millisecond and 200 ms at most.
    ///
    /// Reports go to the `tracing` subscriber that is current here, or to the process-wide one if there is none yet.
    ///
    /// # Errors
    ///
    /// Outside a runtime, unless one was given by [`runtime`](Self::runtime); if the runtime was built without timers or
    /// without I/O; if an option is out of range; if a thread cannot be started. In a binary built with `panic = "abort"` a runtime without
    /// timers or I/O aborts with tokio's own message instead: tokio can only be asked by a call that panics, so the panic hook is told of it, too.
    pub fn spawn(self) -> Result<StallMonitor, SpawnError> {
        ThresholdError::check(self.stall_threshold)?;
        if !(1..=Routes::MOST).contains(&self.max_routes) {
            return Err(SpawnError::max_routes(self.max_routes));
        }
        if self.runtime_name.is_empty() {
            return Err(SpawnError::runtime_name());
        }
        let runtime = match self.runtime {
            Some(runtime) => runtime,
            None => Handle::try_current().map_err(|_| SpawnError::no_runtime())?,
        };
        let name = &self.runtime_name;
        let shared = Shared::new(Clock::new(), runtime, name, self.max_routes, self.route_label, self.stacks);
        shared.set_threshold(self.stall_threshold);
        let watch = Watch::start(shared, self.on_stall, self.reports_per_minute, self.rescue)?;
        Ok(StallMonitor { watch: Arc::new(watch) })
    }
}

impl fmt::Debug for StallMonitorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StallMonitorBuilder")
            .field("stall_threshold", &self.stall_threshold)
            .field("runtime_name", &self.runtime_name)
            .field("max_routes", &self.max_routes)
            .field("stacks", &self.stacks)
            .field("rescue", &self.rescue)
            .field("reports_per_minute", &self.reports_per_minute)
            .finish_non_exhaustive()
    }
}
