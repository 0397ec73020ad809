//! The threads and tasks of a monitor, from their start to their end.

mod drivers;
mod running;
mod runtime_end;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::AbortHandle;

use self::drivers::Drivers;
use self::running::Threads;
use self::runtime_end::RuntimeEnd;
use crate::error::Error;
use crate::export::{ExportLoop, Exporter};
use crate::report::{Hook, Outputs, Reporter, SymbolLoop};
use crate::stacks::StackSampler;
use crate::state::{MonitorState, Notice};
use crate::watchdog::{Lag, Rescuer, Watchdog, WatchdogStats, discover_workers, probe};

/// How long the last flush waits for what the log and the hook have yet to count. Together with
/// what the reporter waits for, it is less than what a shutdown waits.
const OUTPUTS_TIMEOUT: Duration = Duration::from_millis(300);

/// Keeps the threads and tasks of one monitor running. They end when it is dropped.
pub(crate) struct MonitorGuard {
    monitor: Arc<MonitorState>,
    tasks: [AbortHandle; 2],
    threads: Threads,
}

// === impl MonitorGuard ===

impl MonitorGuard {
    pub(crate) fn start(
        monitor: MonitorState,
        hook: Option<Hook>,
        reports_per_minute: u32,
        rescue: bool,
    ) -> Result<Self, Error> {
        let monitor = Arc::new(monitor);
        let drivers = Drivers::of(&monitor.runtime)?;
        if !drivers.timer {
            return Err(Error::no_timer());
        }
        if !drivers.io {
            monitor.queue.push_notice(Notice::NoIoDriver);
        }
        if monitor.stacks_requested && monitor.stacks_missing.is_some() {
            monitor.queue.push_notice(Notice::NoStacks);
        }
        let signals = monitor.stack_signals && monitor.stacks_missing.is_none();
        let sampler = StackSampler::new(signals).map_err(Error::signal)?;
        let (lag, stats) = (Arc::new(Lag::new(&monitor)), Arc::<WatchdogStats>::default());
        let exporter = Exporter::new(&monitor, Arc::clone(&lag), Arc::clone(&stats));
        let export_loop = ExportLoop::new(Arc::clone(&monitor), exporter);
        let (outputs, log_loop, hook_loop) =
            Outputs::new(Arc::clone(&monitor), hook, reports_per_minute);
        let reporter = Reporter::new(Arc::clone(&monitor), outputs.clone());
        let captures_stacks = monitor.stacks_missing.is_none();
        let symbol_loop = captures_stacks.then(|| SymbolLoop::new(Arc::clone(&monitor), &outputs));

        let rescue = rescue && has_other_workers(&monitor.runtime);
        let (rescuer, rescue_loop, sentinel) =
            Rescuer::new(Arc::clone(&monitor), drivers.io, rescue).map_err(Error::thread)?;
        let watchdog = Watchdog::new(Arc::clone(&monitor), stats, rescuer.clone(), sampler);

        let threads = Threads::default();
        let wait_for_outputs = {
            let outputs = outputs.clone();
            move || outputs.wait_for_end(Instant::now() + OUTPUTS_TIMEOUT)
        };
        let spawn_all = || {
            threads.spawn("tower-stall-log", || log_loop.run())?;
            if let Some(hook_loop) = hook_loop {
                threads.spawn("tower-stall-hook", || hook_loop.run())?;
            }
            let exporter =
                threads.spawn("tower-stall-export", || export_loop.run(wait_for_outputs))?;
            monitor.queue.set_exporter(exporter);
            if let Some(symbol_loop) = symbol_loop {
                let symbolizer = threads.spawn("tower-stall-symbols", || symbol_loop.run())?;
                monitor.capture_pool.set_symbolizer(symbolizer);
            }
            rescuer.set_thread(threads.spawn("tower-stall-rescue", || rescue_loop.run())?);
            monitor.queue.set_reporter(threads.spawn("tower-stall-report", || reporter.run())?);
            monitor.notifier.set_thread(threads.spawn("tower-stall-watch", || watchdog.run())?);
            Ok(())
        };
        if let Err(error) = spawn_all() {
            // The watchdog and the reporter would have ended the others.
            rescuer.close();
            monitor.close_queue();
            outputs.close();
            monitor.queue.finish();
            return Err(Error::thread(error));
        }
        let tasks = [
            monitor.runtime.spawn(probe_and_discover(&monitor, lag)).abort_handle(),
            monitor.runtime.spawn(sentinel.run(Arc::clone(&monitor))).abort_handle(),
        ];
        Ok(Self { monitor, tasks, threads })
    }

    #[inline]
    pub(crate) fn monitor(&self) -> &Arc<MonitorState> {
        &self.monitor
    }

    /// Ends the tasks and asks the threads to end, without waiting for them.
    pub(crate) fn close(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.monitor.notifier.close();
    }

    /// Joins the threads, unless one of them takes longer than a timeout to end.
    pub(crate) fn join(&self, timeout: Duration) {
        self.threads.join(timeout);
    }
}

impl fmt::Debug for MonitorGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.monitor.fmt(f)
    }
}

impl Drop for MonitorGuard {
    fn drop(&mut self) {
        self.close();
    }
}

/// Returns the future of the lag probe, which also discovers workers, and notices the end of the
/// runtime.
fn probe_and_discover(
    monitor: &Arc<MonitorState>,
    lag: Arc<Lag>,
) -> impl Future<Output = ()> + Send + use<> {
    let end = RuntimeEnd::new(monitor);
    let (clock, bounds) = (monitor.clock.clone(), monitor.bounds.clone());
    let (monitor, idle) = (Arc::clone(monitor), Arc::clone(monitor));
    let discover = move |round, is_idle| discover_workers(&monitor, round, is_idle);
    async move {
        probe(lag, clock, bounds, move || idle.notifier.is_armed(), discover).await;
        end.disarm();
    }
}

/// Returns whether another worker could take over the I/O driver.
fn has_other_workers(runtime: &Handle) -> bool {
    runtime.runtime_flavor() != RuntimeFlavor::CurrentThread && runtime.metrics().num_workers() > 1
}
