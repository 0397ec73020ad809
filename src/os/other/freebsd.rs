//! System calls on FreeBSD, each behind a safe function.

#![allow(unsafe_code)]

use std::time::Duration;

use crate::os::posix::clock;
pub(crate) use crate::os::posix::{process_cpu_time, thread_cpu_time};
use crate::os::{ThreadState, Tid};

impl Tid {
    /// Returns the id of the thread's CPU clock, which contains that of the thread.
    pub(crate) fn current() -> Self {
        let mut id: libc::clockid_t = 0;
        // SAFETY: a thread's own handle is valid, and `id` is a valid `clockid_t`.
        let error = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut id) };
        if error == 0 { Self(u64::from(id as u32)) } else { Self::default() }
    }
}

/// Returns the state and the CPU time of a thread of this process; `None` if it has ended.
///
/// The kernel finds only threads of this process by such an id. It accounts for the time of a
/// thread that runs when it leaves the CPU, or its time slice has ended.
pub(super) fn state_and_cpu_time(thread: Tid) -> Option<(ThreadState, Duration)> {
    let id = u32::try_from(thread.0).ok().filter(|&id| id != 0)?;
    clock(id as libc::clockid_t).map(|cpu| (ThreadState::Unknown, cpu))
}
