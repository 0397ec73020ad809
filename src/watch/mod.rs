//! Watching the runtime: a thread that sees stalls while they last, one that wakes the runtime up, and probes inside it.

mod driver;
mod examiner;
mod health;
mod lag;
mod watchdog;
mod workers;

pub(crate) use self::driver::{Rescuer, Sentinel};
pub(crate) use self::lag::{Lag, LagTotals, probe};
pub(crate) use self::watchdog::{Pulse, Watchdog};
pub(crate) use self::workers::meet_workers;
