//! The CPU clocks of POSIX.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::time::Duration;

/// Returns the CPU time of the current thread.
pub(crate) fn thread_cpu_time() -> Option<Duration> {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Returns the CPU time of all threads of this process.
pub(crate) fn process_cpu_time() -> Option<Duration> {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Reads a clock; `None` if there is no such clock.
pub(super) fn clock(id: libc::clockid_t) -> Option<Duration> {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the pointer is to memory for a `timespec`; the kernel rejects an id that is not
    // valid.
    let is_read = unsafe { libc::clock_gettime(id, time.as_mut_ptr()) } == 0;
    // SAFETY: a call that returned 0 has initialized the value.
    let time = is_read.then(|| unsafe { time.assume_init() })?;
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}
