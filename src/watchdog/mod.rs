//! The watchdog: a thread that detects stalls while they are in progress, one that resolves driver
//! starvation, and probes inside the runtime.

mod blocking_pool;
mod discovery;
mod inspector;
mod io_driver;
mod lag;
mod mode;
mod self_check;
mod stats;
mod thread;
mod timing;
mod worker_elimination;
mod worker_search;
mod worker_state;
mod workers;

pub(crate) use self::discovery::discover_workers;
pub(crate) use self::io_driver::{Rescuer, Sentinel};
pub(crate) use self::lag::{Lag, LagSnapshot, probe};
pub(crate) use self::stats::WatchdogStats;
pub(crate) use self::thread::Watchdog;
