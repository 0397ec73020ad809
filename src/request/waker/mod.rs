//! The waker that records when a future was woken.
//!
//! A future that never waits never clones its waker. So the task's own waker is only borrowed, for
//! the duration of each poll, until the first clone is made.
//!
//! Not `Arc<impl Wake>`: that clones the task's waker at every poll, which costs an atomic
//! increment and decrement of a shared count, and it cannot be replaced without an allocation when
//! the future moves to another task.

#![allow(unsafe_code)]

#[cfg(all(test, tower_stall_loom))]
mod loom;
mod task_waker;
#[cfg(all(test, not(tower_stall_loom)))]
mod tests;

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::task::{RawWaker, RawWakerVTable, Waker};

use self::task_waker::TaskWaker;
use crate::os::Clock;
use crate::sync::{AtomicU64, Ordering};

/// Wakes the task of a future, and records the time of the first wake since the last poll.
///
/// It serves one future after another.
#[derive(Debug)]
pub(crate) struct StampedWaker {
    inner: Arc<WakerInner>,
    /// Points to `inner` without holding a reference count. Lent out only by
    /// [`for_poll`](Self::for_poll).
    waker: ManuallyDrop<Waker>,
}

/// What all clones of a stamped waker share. Aligned so that no two threads write to one cache
/// line.
#[derive(Debug)]
#[repr(align(64))]
struct WakerInner {
    clock: Clock,
    /// The first wake since the last poll, in ticks; 0 for none. Relaxed: no other memory belongs
    /// to it, and the task's scheduler orders a wake before the poll that follows it.
    woken_at: AtomicU64,
    task: TaskWaker,
}

// === impl StampedWaker ===

impl StampedWaker {
    pub(crate) fn new(clock: Clock) -> Self {
        let inner =
            Arc::new(WakerInner { clock, woken_at: AtomicU64::new(0), task: TaskWaker::new() });
        // SAFETY: the functions of the table uphold the contract of `RawWaker`, given a pointer of
        // `Arc::into_raw`. This one has no reference count, so it must neither be dropped nor
        // outlive `inner`: it is in `ManuallyDrop`, and it is lent out only as a reference that
        // borrows `self`, where `inner` is replaced only together with it.
        let waker = unsafe { Waker::new(Arc::as_ptr(&inner).cast(), &WakerInner::VTABLE) };
        Self { inner, waker: ManuallyDrop::new(waker) }
    }

    /// Returns a waker for one poll of a future of `task`. Calls `woken` with the time of the first
    /// wake since the last poll, in ticks, if there was one.
    #[inline(always)]
    pub(crate) fn for_poll<'a>(
        &'a mut self,
        task: &'a Waker,
        woken: impl FnOnce(u64),
    ) -> &'a Waker {
        let inner = &*self.inner;
        let woken_at = inner.woken_at.load(Ordering::Relaxed);
        if woken_at != 0 {
            // NB: a plain store, which takes a fifth of the time of a swap. The next poll has no
            // latency if it is due to a wake between the two.
            inner.woken_at.store(0, Ordering::Relaxed);
            woken(woken_at);
        }
        if !inner.task.is_owned() {
            inner.task.borrow(task);
        } else if !inner.task.will_wake(task) {
            self.rebind(task);
        }
        &self.waker
    }

    /// Prepares for another future. Wakes that are still to come do not count for it.
    #[inline(always)]
    pub(crate) fn reset(&mut self) {
        if self.inner.task.is_owned() {
            self.clear();
        }
        self.inner.woken_at.store(0, Ordering::Relaxed);
    }

    /// Releases the task's waker. If clones exist they keep it, together with `inner`.
    fn clear(&mut self) {
        match Arc::get_mut(&mut self.inner) {
            Some(inner) => inner.task.clear(),
            None => self.replace(),
        }
    }

    #[cold]
    fn replace(&mut self) {
        *self = Self::new(self.inner.clock.clone());
    }

    #[cold]
    fn rebind(&mut self, task: &Waker) {
        self.clear();
        self.inner.task.borrow(task);
    }
}

// === impl WakerInner ===

impl WakerInner {
    const VTABLE: RawWakerVTable =
        RawWakerVTable::new(Self::clone_raw, Self::wake_raw, Self::wake_by_ref_raw, Self::drop_raw);

    /// Records the time, unless a wake has done so. Of two concurrent wakes either may be first.
    #[inline]
    fn stamp(&self) {
        if self.woken_at.load(Ordering::Relaxed) == 0 {
            self.woken_at.store(self.clock.now(), Ordering::Relaxed);
        }
    }

    /// # Safety
    ///
    /// - `data` must come from `Arc::as_ptr` or `Arc::into_raw` of an `Arc<Self>`.
    /// - A reference count must be held for the duration of the call.
    /// - If the task's waker is not owned, the call must be made through the waker that was lent to
    ///   a poll which is still running.
    unsafe fn clone_raw(data: *const ()) -> RawWaker {
        // SAFETY: the pointer is valid, as the caller guarantees.
        let inner = unsafe { &*data.cast::<Self>() };
        if !inner.task.is_owned() {
            // SAFETY: the caller guarantees the same.
            return unsafe { Self::first_clone(data) };
        }
        // SAFETY: the pointer is that of an `Arc`; the new count belongs to the new waker.
        unsafe { Arc::increment_strong_count(data.cast::<Self>()) };
        RawWaker::new(data, &Self::VTABLE)
    }

    /// # Safety
    ///
    /// As for [`clone_raw`](Self::clone_raw).
    #[cold]
    #[inline(never)]
    unsafe fn first_clone(data: *const ()) -> RawWaker {
        // SAFETY: the pointer is valid; no clone existed before, so the call is made through the
        // waker that was lent to the current poll.
        match unsafe { (*data.cast::<Self>()).task.take_ownership() } {
            // SAFETY: the caller guarantees the same, and the task's waker is owned now.
            None => unsafe { Self::clone_raw(data) },
            Some(unstamped) => unstamped,
        }
    }

    /// # Safety
    ///
    /// - `data` must come from `Arc::into_raw` of an `Arc<Self>`, and its count must be the
    ///   caller's to give up.
    /// - The task's waker must be owned, which it is once a clone exists.
    unsafe fn wake_raw(data: *const ()) {
        // SAFETY: the pointer is valid, and its count is given up at the end; it leaks only if the
        // task's waker panics.
        unsafe {
            let inner = &*data.cast::<Self>();
            inner.stamp();
            inner.task.owned().wake_by_ref();
            Arc::decrement_strong_count(data.cast::<Self>());
        }
    }

    /// # Safety
    ///
    /// As for [`clone_raw`](Self::clone_raw).
    unsafe fn wake_by_ref_raw(data: *const ()) {
        // SAFETY: the pointer is valid, as the caller guarantees.
        let inner = unsafe { &*data.cast::<Self>() };
        inner.stamp();
        if inner.task.is_owned() {
            // SAFETY: the task's waker is owned.
            unsafe { inner.task.owned() }.wake_by_ref();
        } else {
            // SAFETY: no clone exists, so the call is made through the waker that was lent to a
            // poll which is still running.
            unsafe { inner.task.borrowed() }.wake_by_ref();
        }
    }

    /// # Safety
    ///
    /// `data` must come from `Arc::into_raw` of an `Arc<Self>`, and its count must be the caller's
    /// to give up.
    unsafe fn drop_raw(data: *const ()) {
        // SAFETY: the caller gives up the count.
        drop(unsafe { Arc::from_raw(data.cast::<Self>()) });
    }
}
