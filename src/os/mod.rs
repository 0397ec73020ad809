//! What the operating system tells of a thread. What the watchdog asks neither allocates nor takes a lock of this process.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod proc;

use std::time::Duration;

#[cfg(not(target_os = "linux"))]
pub(crate) use self::elsewhere::{Descriptor, Quota, cpu_time, moment, own_cpu_time, turns};
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) use self::linux::time_stamp;
#[cfg(target_os = "linux")]
#[cfg_attr(
    any(not(feature = "stacks"), tower_stall_elsewhere, not(target_arch = "x86_64"), not(target_env = "gnu")),
    allow(unused_imports)
)]
pub(crate) use self::linux::{Descriptor, copy_memory, cpu_time, monotonic_nanos, own_cpu_time};
#[cfg(target_os = "linux")]
pub(crate) use self::proc::{Quota, moment, turns};

/// A thread's number in the kernel. 0 stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tid(pub(crate) i32);

/// What a thread was doing at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// It was running, or could have been.
    Running,
    Asleep(Asleep),
}

/// A thread that waits in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asleep {
    pub(crate) call: Call,
    /// The call's first argument: the file descriptor, where it has one.
    pub(crate) argument: u64,
    pub(crate) sp: u64,
    pub(crate) pc: u64,
}

/// The number of a system call, negative where the kernel was entered for something else, such as a page that has to come from disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call(pub(crate) i32);

/// The scheduler's account of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turns {
    /// How long it waited for a core, all waits that have ended.
    pub(crate) waited: Duration,
    /// How often it was put on a core.
    pub(crate) turns: u64,
}
