//! Placeholder docs.

pub(crate) mod cells;
mod clock;
mod export;
mod meter;
mod middleware;
mod monitor;
#[cfg(feature = "prometheus")]
pub mod prometheus;
mod report;
mod routes;
mod shared;
mod sync;
mod watch;

pub use crate::meter::Phase;
pub use crate::middleware::{StallBody, StallFuture, StallLayer, StallService, StallTask};
pub use crate::monitor::{RouteStats, SpawnError, StallMonitor, StallMonitorBuilder, ThresholdError};
pub use crate::report::{Cause, Frame, Location, Stall};
