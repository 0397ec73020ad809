//! Systems on which another thread cannot be observed.

use std::time::Duration;

use super::{SchedStat, Syscall, ThreadState, Tid};

#[derive(Debug)]
pub(crate) struct CgroupCpuStat;

#[derive(Clone, Copy, Debug)]
pub(crate) struct FdTarget;

impl Tid {
    pub(crate) fn current() -> Self {
        Self(0)
    }
}

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

pub(crate) fn thread_state(_: Tid) -> Option<ThreadState> {
    None
}

pub(crate) fn run_delay(_: Tid) -> Option<Duration> {
    None
}

pub(crate) fn sched_stat(_: Tid) -> Option<SchedStat> {
    None
}

pub(crate) fn cpu_time(_: Tid) -> Option<Duration> {
    None
}

pub(crate) fn process_cpu_time() -> Option<Duration> {
    None
}

pub(crate) fn thread_page_faults() -> Option<u64> {
    None
}

pub(crate) fn thread_preemptions() -> Option<u64> {
    None
}

pub(crate) fn thread_cpu_time() -> Option<Duration> {
    None
}

pub(crate) fn since_last_data(_: std::ffi::c_int) -> Option<Duration> {
    None
}

pub(crate) fn scheduler_tick() -> Duration {
    Duration::ZERO
}

pub(crate) fn threads() -> Vec<(Tid, String)> {
    Vec::new()
}
