//! What the operating system reports: time, and what threads are doing.
//!
//! The functions that the watchdog calls neither allocate nor take a lock of this process.

mod clock;

#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(target_os = "linux")]
mod fd_target;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;
#[cfg(target_os = "linux")]
mod proc;
#[cfg(target_os = "linux")]
mod syscall;

use std::time::Duration;

pub(crate) use self::clock::{Clock, duration_nanos};
#[cfg(stacks_supported)]
pub(crate) use self::linux::{monotonic_nanos, open_own_memory, read_process_memory};
#[cfg(not(target_os = "linux"))]
pub(crate) use self::other::{
    CgroupCpuStat, FdTarget, cpu_time, process_cpu_time, run_delay, sched_stat, scheduler_tick,
    since_last_data, thread_cpu_time, thread_page_faults, thread_preemptions, thread_state,
    threads,
};
#[cfg(stacks_supported)]
pub(crate) use self::proc::tells_where_blocked;
#[cfg(target_os = "linux")]
pub(crate) use self::{
    cgroup::CgroupCpuStat,
    fd_target::FdTarget,
    linux::{
        cpu_time, process_cpu_time, scheduler_tick, since_last_data, thread_cpu_time,
        thread_page_faults, thread_preemptions,
    },
    proc::{run_delay, sched_stat, thread_state, threads},
};

/// A thread's id in the kernel. 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tid(pub(crate) i32);

/// What a thread is doing at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadState {
    /// On-CPU, or runnable.
    Running,
    Blocked(BlockedIn),
    /// Blocked, but the kernel does not tell where, as in gVisor.
    Asleep,
    /// The kernel tells nothing of it but its CPU time.
    Unknown,
}

impl ThreadState {
    /// Returns whether the thread is known to be blocked.
    pub(crate) fn is_blocked(self) -> bool {
        matches!(self, Self::Blocked(_) | Self::Asleep)
    }

    /// Returns what the thread is blocked in, if it may be blocked.
    pub(crate) fn blocked_in(self) -> Option<Syscall> {
        match self {
            Self::Running => None,
            Self::Blocked(blocked) => Some(blocked.syscall),
            Self::Asleep | Self::Unknown => Some(Syscall::UNKNOWN),
        }
    }
}

/// Where a blocked thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockedIn {
    pub(crate) syscall: Syscall,
    /// The first argument: the file descriptor, if the system call takes one.
    pub(crate) arg0: u64,
    pub(crate) sp: u64,
    pub(crate) pc: u64,
}

/// The number of a system call; negative if the kernel was entered for another reason, such as a
/// page that has to be read from disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Syscall(pub(crate) i32);

impl Syscall {
    pub(crate) const PAGE_FAULT: Self = Self(-1);
    /// It is not known which one.
    pub(crate) const UNKNOWN: Self = Self(-2);
}

/// The scheduler's statistics of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SchedStat {
    /// The time spent waiting in the run queue; only waits that have ended. `None` where the kernel
    /// does not tell.
    pub(crate) run_delay: Option<Duration>,
    /// How often the thread was put on a CPU; where the kernel does not tell, its CPU time in
    /// nanoseconds, which does not change either while it is off the CPU.
    pub(crate) timeslices: u64,
}
