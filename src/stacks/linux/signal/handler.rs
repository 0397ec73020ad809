//! The signal handler. The module's head explains why it may run anywhere.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use super::disposition;
use super::message;
use super::shared_sample::SharedSample;
use super::signal_sample::SignalSample;
use crate::os::Tid;
use crate::stacks::linux::arch::saved_registers;

/// The request and its sample.
#[cfg(not(tower_stall_loom))]
pub(super) static SHARED: SharedSample<SignalSample> = SharedSample::new(SignalSample::empty());

/// The same, with loom's atomics, which cannot be created in a constant. No model uses it.
#[cfg(tower_stall_loom)]
pub(super) static SHARED: std::sync::LazyLock<SharedSample<SignalSample>> =
    std::sync::LazyLock::new(|| SharedSample::new(SignalSample::empty()));

/// Returns what distinguishes our cookies from those of another copy of this crate in the process,
/// whose handler may be installed before or after ours: it has its static at another address.
pub(super) fn cookie_base() -> u64 {
    (&raw const SHARED).addr() as u64 / size_of::<SharedSample<SignalSample>>() as u64
}

/// Returns the number of the request that a signal is for; `None` if it is not ours. One without a
/// payload is for the request of this thread, if there is one.
fn number(info: &libc::siginfo_t) -> Option<u64> {
    message::number(cookie_base(), info).or_else(|| {
        let may_be_ours = message::may_lack_payload(info);
        may_be_ours.then(|| SHARED.requested(Tid::current())).flatten()
    })
}

/// Fulfills a request of ours, and forwards all other signals.
///
/// # Safety
///
/// - `info` must be null, or point to the `siginfo_t` that the kernel passed to a handler.
/// - `context` must be null, or point to the context that the kernel passed to that handler.
pub(super) unsafe extern "C" fn on_signal(
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    // SAFETY: the function has no preconditions.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the pointer is to a variable of this thread, which exists as long as the thread.
    let saved_errno = unsafe { *errno };
    // SAFETY: both pointers are null or come from the kernel, as the caller guarantees. What they
    // point to is not written to while the handler runs.
    let (number, interrupted) = unsafe {
        let number = info.as_ref().and_then(number);
        (number, saved_registers(context).as_ref())
    };
    if let (Some(number), Some(interrupted)) = (number, interrupted) {
        let capture = |sample: &mut SignalSample, mark| sample.capture(interrupted, mark);
        SHARED.fulfill(number, Tid::current(), capture);
    } else {
        // SAFETY: the caller guarantees the same conditions.
        unsafe { disposition::forward(signal, info, context) };
    }
    // SAFETY: as for the load above.
    unsafe { *errno = saved_errno };
}
