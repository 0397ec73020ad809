//! System calls on Windows, each behind a safe function.

#![allow(unsafe_code)]

use std::time::Duration;

use windows_sys::Win32::Foundation::{CloseHandle, FILETIME, HANDLE, STILL_ACTIVE};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetCurrentThread, GetCurrentThreadId, GetExitCodeThread, GetProcessTimes,
    GetThreadTimes, OpenThread, THREAD_QUERY_LIMITED_INFORMATION,
};

use crate::os::{ThreadState, Tid};

/// The times of a thread or a process, in units of 100 ns.
#[derive(Clone, Copy, Debug)]
struct Times {
    created: u64,
    cpu: u64,
}

/// A handle that this module has opened.
struct OwnedThread(HANDLE);

impl Tid {
    /// Returns the thread's id, and in the lower half that of the time of its creation: Windows uses
    /// an id again as soon as its thread is gone, for any process.
    pub(crate) fn current() -> Self {
        // SAFETY: the calls take no arguments, and the handle that is returned needs no closing.
        let (id, thread) = unsafe { (GetCurrentThreadId(), GetCurrentThread()) };
        thread_times(thread).map(|times| Self::new(id, times)).unwrap_or_default()
    }

    fn new(id: u32, times: Times) -> Self {
        Self(u64::from(id) << 32 | u64::from(times.created as u32))
    }

    fn id(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Returns the state and the CPU time of a thread of this process; `None` if it has ended.
///
/// Neither allocates nor takes a lock of this process.
pub(super) fn state_and_cpu_time(thread: Tid) -> Option<(ThreadState, Duration)> {
    let opened = OwnedThread::open(thread.id())?;
    let times = thread_times(opened.0)?;
    let is_alive = Tid::new(thread.id(), times) == thread && opened.is_running();
    is_alive.then(|| (ThreadState::Unknown, times.cpu()))
}

/// Returns the CPU time of the current thread.
pub(crate) fn thread_cpu_time() -> Option<Duration> {
    // SAFETY: the call takes no arguments, and the handle that it returns needs no closing.
    let thread = unsafe { GetCurrentThread() };
    thread_times(thread).map(Times::cpu)
}

/// Returns the CPU time of all threads of this process.
pub(crate) fn process_cpu_time() -> Option<Duration> {
    // SAFETY: as in `thread_cpu_time`.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: the handle is valid, and the function writes to the pointers alone.
    let read = |created, exited, kernel, user| unsafe {
        GetProcessTimes(process, created, exited, kernel, user)
    };
    Times::read(read).map(Times::cpu)
}

fn thread_times(thread: HANDLE) -> Option<Times> {
    // SAFETY: the callers' handles are valid, and the function writes to the pointers alone.
    Times::read(|created, exited, kernel, user| unsafe {
        GetThreadTimes(thread, created, exited, kernel, user)
    })
}

// === impl OwnedThread ===

impl OwnedThread {
    /// Opens a thread of any process; `None` if there is none with this id.
    fn open(id: u32) -> Option<Self> {
        // SAFETY: the call accesses no memory.
        let thread = unsafe { OpenThread(THREAD_QUERY_LIMITED_INFORMATION, 0, id) };
        (!thread.is_null()).then_some(Self(thread))
    }

    /// Returns whether the thread has not ended. As long as there is a handle, its id still opens.
    fn is_running(&self) -> bool {
        let mut code = 0;
        // SAFETY: the handle is valid, and `code` a valid `u32`.
        let is_read = unsafe { GetExitCodeThread(self.0, &raw mut code) } != 0;
        is_read && code == STILL_ACTIVE as u32
    }
}

impl Drop for OwnedThread {
    fn drop(&mut self) {
        // SAFETY: the handle is valid, and is not used after this.
        unsafe { CloseHandle(self.0) };
    }
}

// === impl Times ===

impl Times {
    /// Reads times by a function that writes those of creation, of the end, in the kernel and in the
    /// program, and returns 0 if it fails.
    fn read(
        read: impl FnOnce(*mut FILETIME, *mut FILETIME, *mut FILETIME, *mut FILETIME) -> i32,
    ) -> Option<Self> {
        let none = FILETIME { dwLowDateTime: 0, dwHighDateTime: 0 };
        let [mut created, mut exited, mut kernel, mut user] = [none; 4];
        let is_read = read(&raw mut created, &raw mut exited, &raw mut kernel, &raw mut user) != 0;
        let units =
            |time: FILETIME| u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
        is_read.then(|| Self { created: units(created), cpu: units(kernel) + units(user) })
    }

    fn cpu(self) -> Duration {
        Duration::from_nanos(self.cpu.saturating_mul(100))
    }
}
