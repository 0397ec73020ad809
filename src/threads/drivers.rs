//! Finds out which drivers a runtime has.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::error::Error;
use crate::watchdog::Sentinel;

/// The drivers that a runtime has.
pub(super) struct Drivers {
    pub(super) timer: bool,
    pub(super) io: bool,
}

impl Drivers {
    /// Finds out which drivers a runtime has.
    ///
    /// Tokio has no function for that (<https://github.com/tokio-rs/tokio/issues/8361>): it panics
    /// when a driver that does not exist is used. So each is used once on a helper thread, with the
    /// panic caught, although the panic hook sees it.
    ///
    /// In tokio 1.54, each use of a driver goes through an accessor that panics, `Debug` of a
    /// handle shows none of its parts, and the metrics of the drivers are unstable. To replace the
    /// panic hook meanwhile is no alternative: it is the hook of all threads, which may panic or
    /// replace it at the same time.
    pub(super) fn of(runtime: &Handle) -> Result<Self, Error> {
        let runtime = runtime.clone();
        let check = move || {
            let _entered = runtime.enter();
            let timer = catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).is_ok();
            // Other errors are those of `Rescuer::new`, which returns them.
            let io = catch_unwind(AssertUnwindSafe(Sentinel::check)).is_ok();
            Self { timer, io }
        };
        let name = "tower-stall-check".into();
        let thread = thread::Builder::new().name(name).spawn(check).map_err(Error::thread)?;
        Ok(thread.join().unwrap_or(Self { timer: false, io: false }))
    }
}
