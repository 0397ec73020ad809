//! From measurements to reports. The reporter classifies and counts stalls. What may be slow, or
//! may hang, has a thread of its own: symbolization, the log, and the hook.

mod attribution;
mod blocking_pool;
mod classify;
mod cpu_quota;
mod hand_off;
mod hook;
mod log;
mod message;
mod outbox;
mod outputs;
mod rate_limiter;
mod reporter;
mod spans;
mod split;
mod stall_builder;
mod symbol_loop;

pub(crate) use self::hook::Hook;
pub(crate) use self::outputs::Outputs;
pub(crate) use self::reporter::Reporter;
pub(crate) use self::stall_builder::StallBuilder;
pub(crate) use self::symbol_loop::SymbolLoop;
