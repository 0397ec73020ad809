//! From measurements to reports: one thread classifies stalls, writes the events, calls the hook
//! and flushes the counters.

mod classify;
mod cpu_quota;
mod rate_limiter;
mod reporter;
mod split;
mod stall_builder;

pub(crate) use self::reporter::{Hook, Reporter};
pub(crate) use self::stall_builder::StallBuilder;
