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
#[cfg(any(target_os = "freebsd", target_os = "linux", target_os = "macos"))]
mod posix;
#[cfg(target_os = "linux")]
mod proc;
#[cfg(target_os = "linux")]
mod syscall;

use std::time::Duration;

pub(crate) use self::clock::{Clock, duration_nanos};
#[cfg(all(stacks_supported, target_arch = "aarch64"))]
pub(crate) use self::linux::strip_authentication_code;
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
    linux::{cpu_time, scheduler_tick, since_last_data, thread_page_faults, thread_preemptions},
    posix::{process_cpu_time, thread_cpu_time},
    proc::{run_delay, sched_stat, thread_state, threads},
};

/// The unit in which the system counts the CPU time of a thread; zero if it is negligible.
pub(crate) const CPU_TIME_UNIT: Duration =
    if cfg!(target_os = "windows") { Duration::from_micros(15_625) } else { Duration::ZERO };

/// A thread of this process, as the kernel knows it. 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tid(pub(crate) u64);

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

// === impl SchedStat ===

impl SchedStat {
    /// Returns what the CPU time of a thread tells.
    pub(crate) fn from_cpu_time(cpu: Duration) -> Self {
        Self { run_delay: None, timeslices: duration_nanos(cpu) }
    }
}

#[cfg(all(
    test,
    any(target_os = "freebsd", target_os = "linux", target_os = "macos", target_os = "windows")
))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn the_cpu_time_of_another_thread_grows_while_it_runs_and_is_gone_once_it_has_ended() {
        let (send_tid, tid) = mpsc::channel();
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_stopped);
        let thread = thread::spawn(move || {
            send_tid.send(Tid::current()).unwrap();
            while !is_stopped.load(Ordering::Relaxed) {}
        });
        let tid = tid.recv().unwrap();
        let before = cpu_time(tid).unwrap();
        while cpu_time(tid).unwrap() == before {
            thread::yield_now();
        }
        assert!(thread_state(tid).is_some() && sched_stat(tid).is_some());
        stop.store(true, Ordering::Relaxed);
        // Not joined before, so that its handle still exists.
        while cpu_time(tid).is_some() {
            thread::yield_now();
        }
        assert_eq!((thread_state(tid), sched_stat(tid)), (None, None));
        thread.join().unwrap();
    }

    #[test]
    fn a_thread_and_its_process_count_their_own_cpu_time() {
        let (thread, process) = (thread_cpu_time().unwrap(), process_cpu_time().unwrap());
        while thread_cpu_time().unwrap() == thread || process_cpu_time().unwrap() == process {}
        assert!(cpu_time(Tid::current()).is_some());
    }
}
