//! The atomics of the thread-to-thread protocols: std's, or loom's where the protocols are checked.

#[cfg(not(tower_stall_loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[cfg(tower_stall_loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
