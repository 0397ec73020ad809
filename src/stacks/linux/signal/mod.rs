//! Samples a running thread: a signal interrupts it, and the handler copies its stack.
//!
//! The watchdog *requests* a sample: it records the thread and the mark under a number that is not
//! reused, and sends SIGURG to that thread alone, with the number as the payload. The handler finds
//! the request by its number, copies the interrupted registers and the stack, and marks the request
//! as done. The watchdog polls for the copy, or cancels the request; a signal that arrives late
//! finds its request gone and writes nothing. There is at most one request in the process.
//!
//! Where the kernel refuses signals with a payload, as a seccomp filter may, one without a payload is
//! sent, and is for the request to the thread that it arrives at, if there is one. Should it have been
//! sent for an earlier request to that thread, or by other code of the process, the sample is as true.
//!
//! # Why the handler may run anywhere
//!
//! It may interrupt any code at any instruction: in the allocator, while a lock is held, in the
//! middle of a panic. So it uses nothing that such code can leave half done:
//!
//! - It does not allocate, takes no lock in user space, and waits for no other thread. It calls
//!   `gettid`, `getpid`, `clock_gettime` and `process_vm_readv`, or `pread` in place of the latter,
//!   and, for signals that are not ours, the handler that was installed before.
//! - The stack is copied by a system call: `process_vm_readv` on this process, or where that is
//!   refused, `pread` of `/proc/self/mem`, which the watchdog has opened. The kernel
//!   validates the range: an unmapped page ends the copy, and is not a fault. So the stack pointer
//!   may be anything, such as that of a coroutine or of another handler's alternate stack. For the
//!   same reason [`SignalSampler::request`] is a safe function: outside the kernel, no memory is
//!   read through the stack pointer or the mark. In the kernel, the call takes the lock of the
//!   address space for reading, as a page fault does.
//! - `errno` is saved and restored. The handler uses no other thread-local variable.
//! - Of this crate's memory it accesses only statics: atomics, and a buffer that the phase
//!   `Copying` assigns to one handler alone ([`shared_sample`]).
//! - Nothing in it can panic: no arithmetic that can overflow, no index that is not from a constant
//!   table, no formatting.
//! - It uses little stack: the buffer is not on it, and few calls are nested. That matters,
//!   because Rust gives its threads 8 KiB for signals, of which the kernel's own frame takes 3. For
//!   the same reason other signals are blocked during the copy.
//!
//! # Sharing the signal
//!
//! SIGURG is ignored by default, so a signal that arrives after our handler is gone does no harm.
//! Signals that are not ours are forwarded to the previously installed handler; of those without a
//! payload, one that arrives while a request waits for it is taken for ours. A handler installed
//! after ours may or may not forward ours; if it does not, requests are not fulfilled, and nothing
//! worse happens. A child of `fork` inherits the handler but not the watchdog, so no samples are
//! requested there.

#![allow(unsafe_code)]

mod cell;
mod disposition;
mod handler;
mod message;
mod shared_sample;
mod signal_sample;
#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests;

use std::io;

use self::handler::{SHARED, cookie_base, on_signal};
use self::message::Message;
use self::shared_sample::SampleHandle;
use self::signal_sample::SignalSample;
use crate::os::Tid;
use crate::stacks::snapshot::StackSnapshot;

/// Keeps the process-wide handler installed while it lives.
#[derive(Debug)]
pub(super) struct SignalSampler(());

/// A request for the sample of a thread. There is at most one in the process.
#[derive(Debug)]
#[must_use = "dropping a request cancels it"]
pub(super) struct SampleRequest(SampleHandle<'static, SignalSample>);

/// The progress of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SampleStatus {
    Pending,
    Copied,
    /// The stack pointer was not a readable address: there are registers, but no bytes.
    Unreadable,
}

// === impl SignalSampler ===

impl SignalSampler {
    /// Installs the handler, unless it is installed already. Takes a lock.
    pub(super) fn install() -> io::Result<Self> {
        // SAFETY: the handler takes what the kernel passes, and is async-signal-safe for the
        // reasons in the module's head.
        unsafe { disposition::acquire(on_signal) }.map(|()| Self(()))
    }

    /// Sends the signal. Returns `None` if another request is in progress, or if the thread has
    /// ended. Neither allocates nor takes a lock nor waits.
    ///
    /// A blocked thread may be sampled, but its system call may then fail with EINTR. While the
    /// signal of a cancelled request is pending for a thread, a new request to that thread is not
    /// fulfilled: the kernel keeps one pending signal of a kind.
    pub(super) fn request(&self, thread: Tid, mark: u64) -> Option<SampleRequest> {
        let request = SampleRequest(SHARED.request(thread, mark)?);
        Message::new(cookie_base(), request.0.number()).send(thread).then_some(request)
    }
}

impl Drop for SignalSampler {
    fn drop(&mut self) {
        disposition::release(on_signal);
    }
}

// === impl SampleRequest ===

impl SampleRequest {
    /// Copies the sample to `stack` if the thread has responded, after `grow` was called with the
    /// buffer and the number of bytes. Never waits.
    pub(super) fn poll(
        &mut self,
        stack: &mut StackSnapshot,
        grow: impl FnOnce(&mut StackSnapshot, usize),
    ) -> SampleStatus {
        let mark = self.0.mark();
        let copy = |sample: &SignalSample| {
            grow(stack, sample.len());
            sample.copy_to(stack, mark)
        };
        match self.0.take(copy) {
            None => SampleStatus::Pending,
            Some(0) => SampleStatus::Unreadable,
            Some(_) => SampleStatus::Copied,
        }
    }

    /// Ends the request: a signal that arrives later writes nothing. Returns `false` if the handler
    /// is copying, in which case the next scan may try again.
    pub(super) fn cancel(&mut self) -> bool {
        self.0.cancel()
    }
}
