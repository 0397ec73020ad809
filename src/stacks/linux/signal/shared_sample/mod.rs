//! A value that a signal handler writes at the request of another thread, and which of the two may
//! access it.
//!
//! One word holds the number of a request and its phase. Every arrow is one atomic operation:
//!
//! ```text
//! Free ─request─► Filling ─request─► Requested ─fulfill─► Copying ─fulfill─► Done ─take─► Free
//!                                        │                  │                └─cancel─► Free
//!                                      cancel              drop
//!                                        ▼                  ▼
//!                                       Free            Abandoned ─fulfill─► Free
//! ```
//!
//! From `Copying` to `Done`, or to `Free` by way of `Abandoned`, the sample belongs to the handler.
//! From `Done` to `Free` it belongs to the requester. Otherwise it is not accessed.

#![allow(unsafe_code)]

#[cfg(all(test, tower_stall_loom))]
mod loom;
#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests;

use std::fmt;

use super::cell::UnsafeCell;
use crate::os::Tid;
use crate::sync::{AtomicU64, Ordering};

/// The bits of a request's number. The rest of a word is left to the phase, or to a cookie.
pub(super) const NUMBER_BITS: u32 = 40;

/// A request and the sample that fulfills it.
pub(super) struct SharedSample<T> {
    state: AtomicU64,
    /// The thread that the request is for.
    thread: AtomicU64,
    mark: AtomicU64,
    sample: UnsafeCell<T>,
}

/// The requester's handle to its request.
#[must_use = "dropping a request cancels it"]
pub(super) struct SampleHandle<'s, T> {
    shared: &'s SharedSample<T>,
    number: u64,
    mark: u64,
}

/// The number of a request, and its phase.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u64);

#[derive(Clone, Copy)]
enum SamplePhase {
    /// There is no request. The number is that of the last one.
    Free,
    /// The requester writes the thread and the mark.
    Filling,
    /// The handler may fulfill it, and the requester may cancel it.
    Requested,
    /// The handler owns the sample.
    Copying,
    /// The requester owns the sample.
    Done,
    /// The handler owns the sample, and the request has been dropped.
    Abandoned,
}

// === impl SharedSample ===

// SAFETY: all fields but `sample` are atomics. `sample` is accessed only by the call of `fulfill`
// that moved the state from `Requested` to `Copying`, until it leaves that phase, and through the
// one `SampleHandle` with that number, from `Done` to `Free`. Each access happens before the next:
// every store that hands the sample over is a Release, and every load that takes it over is an
// Acquire. The value moves between threads, hence `T: Send`.
unsafe impl<T: Send> Sync for SharedSample<T> {}

impl<T> SharedSample<T> {
    #[cfg(not(tower_stall_loom))]
    pub(super) const fn new(sample: T) -> Self {
        Self {
            state: AtomicU64::new(State::new(0, SamplePhase::Free).0),
            thread: AtomicU64::new(0),
            mark: AtomicU64::new(0),
            sample: UnsafeCell::new(sample),
        }
    }

    #[cfg(tower_stall_loom)]
    pub(super) fn new(sample: T) -> Self {
        Self {
            state: AtomicU64::new(State::new(0, SamplePhase::Free).0),
            thread: AtomicU64::new(0),
            mark: AtomicU64::new(0),
            sample: UnsafeCell::new(sample),
        }
    }

    /// Requests a sample of `thread`. Returns `None` if there is a request already.
    pub(super) fn request(&self, thread: Tid, mark: u64) -> Option<SampleHandle<'_, T>> {
        let last = State(self.state.load(Ordering::Relaxed));
        if !last.is_free() {
            return None;
        }
        let number = last.next_number();
        let filling = State::new(number, SamplePhase::Filling);
        // Acquire: pairs with the Release in `free`. The last access to the sample happened before.
        self.state
            .compare_exchange(last.0, filling.0, Ordering::Acquire, Ordering::Relaxed)
            .ok()?;
        self.thread.store(thread.0, Ordering::Relaxed);
        self.mark.store(mark, Ordering::Relaxed);
        // Release: pairs with the Acquire in `fulfill`, which then reads this thread and this mark.
        self.state.store(State::new(number, SamplePhase::Requested).0, Ordering::Release);
        Some(SampleHandle { shared: self, number, mark })
    }

    /// Returns the number of the request for a sample of `thread`, if there is one. Async-signal-safe.
    pub(super) fn requested(&self, thread: Tid) -> Option<u64> {
        // Acquire: pairs with the Release in `request`.
        let state = State(self.state.load(Ordering::Acquire));
        let number = state.number();
        let is_requested = state == State::new(number, SamplePhase::Requested);
        (is_requested && self.thread.load(Ordering::Relaxed) == thread.0).then_some(number)
    }

    /// Fulfills the request with that number, if it still exists and is for `thread`, which is the
    /// current one: `copy` writes the sample and is passed the mark. Called by the handler; it is
    /// async-signal-safe if `copy` is.
    pub(super) fn fulfill(&self, number: u64, thread: Tid, copy: impl FnOnce(&mut T, u64)) {
        // Acquire: pairs with the Release in `request`. If another request follows between this
        // load and the next, its number differs, and the transition fails.
        let is_requested =
            self.state.load(Ordering::Acquire) == State::new(number, SamplePhase::Requested).0;
        if !is_requested
            || self.thread.load(Ordering::Relaxed) != thread.0
            || self.transition(number, SamplePhase::Requested, SamplePhase::Copying).is_err()
        {
            return;
        }
        let mark = self.mark.load(Ordering::Relaxed);
        self.sample.with_mut(|sample| {
            // SAFETY: the transition to `Copying` succeeds for one call, which owns the sample
            // until the end of that phase. The last access happened before, by the Acquire above.
            copy(unsafe { &mut *sample }, mark);
        });
        if self.transition(number, SamplePhase::Copying, SamplePhase::Done).is_err() {
            // It is `Abandoned`, a phase that only the handler ends.
            self.free(number);
        }
    }

    /// Moves a request from one phase to another. Returns the current state if another transition
    /// won.
    fn transition(&self, number: u64, from: SamplePhase, to: SamplePhase) -> Result<(), State> {
        let (from, to) = (State::new(number, from).0, State::new(number, to).0);
        // Acquire: for `Copying`, pairs with the Release in `request`; for a failure that finds
        // `Done` or `Abandoned`, with the Release of the transition to it. Release: for `Done`,
        // pairs with the Acquire in `take`; for `Free`, with the Acquire in `request`.
        self.state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(State)
    }

    /// Releases the sample. Must only be called by its owner.
    fn free(&self, number: u64) {
        // Release: pairs with the Acquire in `request`.
        self.state.store(State::new(number, SamplePhase::Free).0, Ordering::Release);
    }
}

// === impl SampleHandle ===

impl<T> SampleHandle<'_, T> {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn mark(&self) -> u64 {
        self.mark
    }

    /// Passes the sample to `read` and ends the request. Returns `None` if the handler has not
    /// written the sample, or if the request has ended.
    pub(super) fn take<R>(&mut self, read: impl FnOnce(&T) -> R) -> Option<R> {
        let done = State::new(self.number, SamplePhase::Done);
        // Acquire: pairs with the Release in `transition`. The sample is complete.
        if self.shared.state.load(Ordering::Acquire) != done.0 {
            return None;
        }
        let result = self.shared.sample.with(|sample| {
            // SAFETY: from `Done` to `Free` the sample belongs to the requester, which is `self`, a
            // unique reference. The handler's writes happened before, by the Acquire above.
            read(unsafe { &*sample })
        });
        self.shared.free(self.number);
        Some(result)
    }

    /// Ends the request: a signal that arrives later writes nothing. Returns `false` if the handler
    /// is copying, in which case the caller may try again. Returns `true` if the request has ended
    /// before.
    pub(super) fn cancel(&mut self) -> bool {
        let number = self.number;
        match self.shared.transition(number, SamplePhase::Requested, SamplePhase::Free) {
            Err(now) if now == State::new(number, SamplePhase::Copying) => false,
            Err(now) if now == State::new(number, SamplePhase::Done) => {
                self.shared.free(number);
                true
            }
            Ok(()) | Err(_) => true,
        }
    }
}

impl<T> Drop for SampleHandle<'_, T> {
    /// Cancels the request. If the handler is copying, leaves it to the handler to free the sample.
    fn drop(&mut self) {
        let (shared, number) = (self.shared, self.number);
        let abandon = || shared.transition(number, SamplePhase::Copying, SamplePhase::Abandoned);
        if !self.cancel() && abandon().is_err() {
            // The handler has finished meanwhile. Only the requester ends the phase `Done`.
            shared.free(number);
        }
    }
}

impl<T> fmt::Debug for SampleHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SampleHandle").field("number", &self.number).finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    const PHASE_BITS: u32 = 3;

    const fn new(number: u64, phase: SamplePhase) -> Self {
        Self(number << Self::PHASE_BITS | phase as u64)
    }

    fn is_free(self) -> bool {
        self == Self::new(self.number(), SamplePhase::Free)
    }

    fn number(self) -> u64 {
        self.0 >> Self::PHASE_BITS
    }

    /// Returns the number of the next request. Numbers repeat after a trillion requests.
    fn next_number(self) -> u64 {
        self.number().wrapping_add(1) & ((1 << NUMBER_BITS) - 1)
    }
}
