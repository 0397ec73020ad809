//! What a signal carries: the number of a question, and that it is ours.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::mem::offset_of;
use std::ptr;

use super::{CAPTURE, Capture, SIGNAL};
use crate::os::Tid;

/// A signal's `siginfo_t` as the kernel reads it, with a value.
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

const _: () = assert!(size_of::<Message>() == size_of::<libc::siginfo_t>() && offset_of!(Message, value) == 24);

/// The bits of a question's number: all of it that fits into a signal beside the mark that it is ours.
pub(super) const NUMBER: u64 = (1 << 40) - 1;

// === impl Message ===

impl Message {
    pub(super) fn new(value: u64) -> Self {
        // SAFETY: neither call has an argument, or can fail.
        let (pid, uid) = unsafe { (libc::getpid(), libc::getuid()) };
        Self { signal: SIGNAL, errno: 0, code: libc::SI_QUEUE, pad: 0, pid, uid, value, rest: [0; 96] }
    }

    /// To one thread of this process. False if there is none with that number.
    pub(super) fn send(&self, thread: Tid) -> bool {
        // SAFETY: the kernel reads a `siginfo_t`, which `self` is in size, alignment and content.
        unsafe {
            libc::syscall(libc::SYS_rt_tgsigqueueinfo, libc::getpid(), thread.0, SIGNAL, ptr::from_ref(self)) == 0
        }
    }
}

/// The number of a question, as a signal carries it. The rest of the word is taken from where our statics are: another
/// copy of this crate in the process, which is a handler before or after ours, has its own elsewhere.
pub(super) fn cookie(number: u64) -> u64 {
    let place = (&raw const CAPTURE).addr() as u64 / size_of::<Capture>() as u64;
    place << NUMBER.count_ones() | number
}

/// The number of the question that a signal is about. `None` where the signal is not ours.
pub(super) fn number_of(info: &libc::siginfo_t) -> Option<u64> {
    if info.si_code != libc::SI_QUEUE {
        return None;
    }
    // SAFETY: a queued signal has all of these fields. `getpid` has no argument and cannot fail.
    let (value, is_from_here) = unsafe { (info.si_value().sival_ptr as u64, info.si_pid() == libc::getpid()) };
    let number = value & NUMBER;
    (is_from_here && value == cookie(number)).then_some(number)
}
