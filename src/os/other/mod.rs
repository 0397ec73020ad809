//! Other systems than Linux. Where another thread's CPU time can be read, it is all, or nearly all,
//! that is known of the thread.

#[cfg_attr(target_os = "freebsd", path = "freebsd.rs")]
#[cfg_attr(target_os = "macos", path = "macos.rs")]
#[cfg_attr(target_os = "windows", path = "windows.rs")]
#[cfg_attr(
    not(any(target_os = "freebsd", target_os = "macos", target_os = "windows")),
    path = "unsupported.rs"
)]
mod system;

use std::time::Duration;

use self::system::state_and_cpu_time;
pub(crate) use self::system::{process_cpu_time, thread_cpu_time};
use super::{SchedStat, Syscall, ThreadState, Tid};

#[derive(Debug)]
pub(crate) struct CgroupCpuStat;

#[derive(Clone, Copy, Debug)]
pub(crate) struct FdTarget;

impl Syscall {
    pub(crate) fn name(self) -> Option<&'static str> {
        None
    }
}

impl CgroupCpuStat {
    pub(crate) fn of_this_process() -> Self {
        Self
    }

    pub(crate) fn throttled(&self) -> Duration {
        Duration::ZERO
    }
}

impl FdTarget {
    pub(crate) fn as_str(&self) -> &str {
        ""
    }
}

/// Returns what a thread of this process is doing, as far as the kernel tells. `None` if it has
/// ended.
pub(crate) fn thread_state(thread: Tid) -> Option<ThreadState> {
    state_and_cpu_time(thread).map(|(state, _)| state)
}

/// Returns the CPU time of a thread of this process; `None` if it has ended.
pub(crate) fn cpu_time(thread: Tid) -> Option<Duration> {
    state_and_cpu_time(thread).map(|(_, cpu)| cpu)
}

/// Returns what the CPU time of a thread of this process tells. `None` if it has ended.
pub(crate) fn sched_stat(thread: Tid) -> Option<SchedStat> {
    cpu_time(thread).map(SchedStat::from_cpu_time)
}

pub(crate) fn run_delay(_: Tid) -> Option<Duration> {
    None
}

pub(crate) fn thread_page_faults() -> Option<u64> {
    None
}

pub(crate) fn threads() -> Vec<(Tid, String)> {
    Vec::new()
}

pub(crate) fn thread_preemptions() -> Option<u64> {
    None
}

pub(crate) fn since_last_data(_: std::ffi::c_int) -> Option<Duration> {
    None
}

pub(crate) fn scheduler_tick() -> Duration {
    Duration::ZERO
}
