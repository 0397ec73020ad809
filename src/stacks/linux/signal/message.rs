//! The signal and its payload: the number of a request, in a cookie that marks it as ours.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::shared_sample::NUMBER_BITS;
use crate::os::Tid;

pub(super) const SIGNAL: c_int = libc::SIGURG;

/// A `siginfo_t` with a value, in the kernel's layout.
#[repr(C, align(8))]
pub(super) struct Message {
    signal: c_int,
    errno: c_int,
    pub(super) code: c_int,
    pad: c_int,
    pub(super) pid: i32,
    uid: u32,
    pub(super) value: u64,
    rest: [u8; 96],
}

const _: () = assert!(
    size_of::<Message>() == size_of::<libc::siginfo_t>() && offset_of!(Message, value) == 24
);

// === impl Message ===

impl Message {
    pub(super) fn new(cookie_base: u64, number: u64) -> Self {
        // SAFETY: neither function takes an argument, accesses memory, or can fail.
        let (pid, uid) = unsafe { (libc::getpid(), libc::getuid()) };
        Self {
            signal: SIGNAL,
            errno: 0,
            code: libc::SI_QUEUE,
            pad: 0,
            pid,
            uid,
            value: cookie(cookie_base, number),
            rest: [0; 96],
        }
    }

    /// Sends it to one thread of this process, without the payload if the kernel refuses that, as
    /// under a seccomp filter. Returns `false` if there is no such thread.
    pub(super) fn send(&self, thread: Tid) -> bool {
        // SAFETY: the kernel reads a `siginfo_t` through the pointer; `self` has the size, the
        // alignment and the layout of one, as the assertion above checks.
        let is_sent = unsafe {
            libc::syscall(
                libc::SYS_rt_tgsigqueueinfo,
                libc::getpid(),
                thread.0,
                SIGNAL,
                ptr::from_ref(self),
            ) == 0
        };
        let is_refused = || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH);
        is_sent || is_refused() && send_without_payload(thread)
    }
}

/// Whether a signal without payload may be ours. Relaxed: set before the first one is sent, and the
/// kernel orders the sending of a signal before its handler.
static MAY_LACK_PAYLOAD: AtomicBool = AtomicBool::new(false);

fn send_without_payload(thread: Tid) -> bool {
    MAY_LACK_PAYLOAD.store(true, Ordering::Relaxed);
    // SAFETY: the call accesses no memory.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread.0, SIGNAL) == 0 }
}

/// Returns whether a signal has no payload and may be ours: it was sent by this process to one
/// thread, after the kernel had refused a signal with a payload.
pub(super) fn may_lack_payload(info: &libc::siginfo_t) -> bool {
    // SAFETY: a signal with this code has the field, a plain integer. `getpid` takes no argument and
    // cannot fail.
    let is_from_here = || unsafe { info.si_pid() == libc::getpid() };
    info.si_code == libc::SI_TKILL && MAY_LACK_PAYLOAD.load(Ordering::Relaxed) && is_from_here()
}

/// Returns the number of the request that a signal carries; `None` if the signal is not ours.
pub(super) fn number(cookie_base: u64, info: &libc::siginfo_t) -> Option<u64> {
    if info.si_code != libc::SI_QUEUE {
        return None;
    }
    // SAFETY: a queued signal has both fields, which are plain integers. `getpid` takes no argument
    // and cannot fail.
    let (value, is_from_here) =
        unsafe { (info.si_value().sival_ptr as u64, info.si_pid() == libc::getpid()) };
    let number = value & ((1 << NUMBER_BITS) - 1);
    (is_from_here && value == cookie(cookie_base, number)).then_some(number)
}

/// Combines the number of a request with as much of the base as fits.
fn cookie(base: u64, number: u64) -> u64 {
    base << NUMBER_BITS | number
}
