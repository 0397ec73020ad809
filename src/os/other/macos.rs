//! System calls on macOS, each behind a safe function.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::time::Duration;

pub(crate) use crate::os::posix::{process_cpu_time, thread_cpu_time};
use crate::os::{ThreadState, Tid};

impl Tid {
    /// Returns the name of the thread's port, which is the thread's as long as it lives.
    pub(crate) fn current() -> Self {
        // SAFETY: a thread's own handle is valid. The call takes no reference to the port.
        let port = unsafe { libc::pthread_mach_thread_np(libc::pthread_self()) };
        Self(port.into())
    }
}

/// Returns the state and the CPU time of a thread of this process; `None` if it has ended.
///
/// Neither allocates nor takes a lock of this process: it is one message to the kernel.
pub(super) fn state_and_cpu_time(thread: Tid) -> Option<(ThreadState, Duration)> {
    let info = basic_info(thread)?;
    let state = match info.run_state {
        libc::TH_STATE_HALTED => return None,
        libc::TH_STATE_RUNNING => ThreadState::Running,
        libc::TH_STATE_STOPPED | libc::TH_STATE_WAITING | libc::TH_STATE_UNINTERRUPTIBLE => {
            ThreadState::Asleep
        }
        _ => ThreadState::Unknown,
    };
    Some((state, duration(info.user_time)? + duration(info.system_time)?))
}

fn basic_info(thread: Tid) -> Option<libc::thread_basic_info> {
    let port = libc::mach_port_t::try_from(thread.0).ok()?;
    let mut info = MaybeUninit::<libc::thread_basic_info>::uninit();
    let mut count = libc::THREAD_BASIC_INFO_COUNT;
    // SAFETY: the kernel writes at most `count` words to `info`, which has that size, and rejects a
    // port that is not a thread's.
    let result = unsafe {
        libc::thread_info(
            port,
            libc::THREAD_BASIC_INFO as libc::thread_flavor_t,
            info.as_mut_ptr().cast(),
            &raw mut count,
        )
    };
    let is_read = result == libc::KERN_SUCCESS && count == libc::THREAD_BASIC_INFO_COUNT;
    // SAFETY: a call that has succeeded has initialized `count` words, which is all of it.
    is_read.then(|| unsafe { info.assume_init() })
}

fn duration(time: libc::time_value_t) -> Option<Duration> {
    let seconds = Duration::from_secs(u64::try_from(time.seconds).ok()?);
    Some(seconds + Duration::from_micros(u64::try_from(time.microseconds).ok()?))
}
