//! The threads and tasks of a monitor, from start to end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, Thread};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::AbortHandle;

use crate::board::Board;
use crate::error::SpawnError;
use crate::export::Exporter;
use crate::report::{Hook, Reporter};
use crate::shared::Shared;
use crate::stacks::Capturer;
use crate::watch::{Lag, Pulse, Rescuer, Sentinel, Watchdog, meet_workers, probe};

/// Keeps the watching threads and tasks of one monitor alive: they end when it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    board: Arc<Board>,
    tasks: [AbortHandle; 2],
}

impl Watch {
    pub(crate) fn start(
        shared: Shared,
        hook: Option<Hook>,
        reports_per_minute: u32,
        rescue: bool,
    ) -> Result<Self, SpawnError> {
        let shared = Arc::new(shared);
        check_drivers(&shared.runtime)?;
        let signals = shared.stack_signals && shared.no_stacks.is_none();
        let capturer = Capturer::new(signals).map_err(SpawnError::signal)?;
        let (board, lag, pulse) = (Arc::<Board>::default(), Arc::<Lag>::default(), Arc::<Pulse>::default());

        let exporter = Exporter::new(&shared, Arc::clone(&lag), Arc::clone(&pulse));
        let reporter = Reporter::new(Arc::clone(&shared), Arc::clone(&board), exporter, hook, reports_per_minute);
        let (rescuer, sentinel) = Rescuer::spawn(Arc::clone(&shared), rescue && has_idle_workers(&shared.runtime))
            .map_err(SpawnError::thread)?;
        let watchdog = Watchdog::new(Arc::clone(&shared), pulse, rescuer.clone(), capturer);

        let started = spawn_thread("tower-stall-report", move || reporter.run()).and_then(|reporter| {
            shared.inbox.attend(reporter);
            spawn_thread("tower-stall-watch", move || watchdog.run())
        });
        match started {
            Ok(watchdog) => shared.alarm.attend(watchdog),
            Err(error) => {
                // The watchdog would have ended the others.
                rescuer.close();
                shared.inbox.close();
                return Err(error);
            }
        }
        let met = Arc::clone(&shared);
        let meet = move |round| meet_workers(&met, round);
        let probe = probe(lag, shared.clock.clone(), shared.bounds.clone(), meet);
        let tasks = [shared.runtime.spawn(probe).abort_handle(), shared.runtime.spawn(sentinel.run()).abort_handle()];
        Ok(Self { shared, board, tasks })
    }

    #[inline]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn board(&self) -> &Board {
        &self.board
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.shared.alarm.close();
    }
}

/// Whether another worker could be there to take the driver over.
fn has_idle_workers(runtime: &Handle) -> bool {
    runtime.runtime_flavor() != RuntimeFlavor::CurrentThread && runtime.metrics().num_workers() > 1
}

fn spawn_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<Thread, SpawnError> {
    let spawned = thread::Builder::new().name(name.into()).spawn(run);
    spawned.map(|handle| handle.thread().clone()).map_err(SpawnError::thread)
}

/// tokio does not tell whether a runtime has timers and I/O: it panics when they are used. So they are used once, on a thread that
/// may panic.
fn check_drivers(runtime: &Handle) -> Result<(), SpawnError> {
    let runtime = runtime.clone();
    let check = move || {
        let _entered = runtime.enter();
        let timer = catch_unwind(|| drop(tokio::time::sleep(std::time::Duration::ZERO))).is_ok();
        let io = timer && catch_unwind(AssertUnwindSafe(Sentinel::check)).is_ok();
        (timer, io)
    };
    let thread = thread::Builder::new().name("tower-stall-check".into()).spawn(check).map_err(SpawnError::thread)?;
    match thread.join() {
        Ok((true, true)) => Ok(()),
        Ok((true, false)) => Err(SpawnError::no_io()),
        _ => Err(SpawnError::no_timer()),
    }
}
