//! Driver starvation: how it is detected, and how it is resolved.
//!
//! A runtime has one driver for its timers and sockets. The worker that waited on it last may be
//! the one that stalls, and tokio does not wake another one to take over. Detection and rescue both
//! use one task inside the runtime, the *sentinel*:
//!
//! - Detection: a byte is written to a socket that the sentinel waits on. If a worker waits on the
//!   driver, the sentinel's waker is called within microseconds. If none does, nothing happens: the
//!   byte wakes no worker.
//! - Rescue: the sentinel is woken from outside, with nothing to do. An idle worker runs it, and
//!   takes over the driver when it parks again, because no other worker holds it.
//!
//! Waking takes tokio's locks, so it is done by a thread of its own, not by the watchdog.

mod probe_state;
mod rescuer;
mod sentinel;
mod socket;

pub(crate) use self::rescuer::Rescuer;
pub(crate) use self::sentinel::Sentinel;
