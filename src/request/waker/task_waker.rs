//! The waker of the task that polls a future.

use std::mem::ManuallyDrop;
use std::ptr;
use std::task::{RawWaker, RawWakerVTable, Waker};

use crate::sync::{AtomicPtr, AtomicU8, Ordering};

/// The waker of the future's task: borrowed for the current poll, until it is needed for longer.
///
/// The pointers are Relaxed: `state` orders the two halves, and `borrowed` is read only by what was
/// reached through the waker that was lent after it was stored.
#[derive(Debug)]
pub(super) struct TaskWaker {
    state: AtomicU8,
    /// Valid during a poll, unless the state is `OWNED`.
    borrowed: AtomicPtr<Waker>,
    /// The two halves of the clone, once the state is `OWNED`.
    data: AtomicPtr<()>,
    vtable: AtomicPtr<RawWakerVTable>,
}

/// No clone of the stamped waker exists.
const BORROWED: u8 = 0;
/// A thread is making the first clone.
const CLONING: u8 = 1;
/// `TaskWaker` holds a clone of the task's waker, for the clones of the stamped waker.
const OWNED: u8 = 2;

// === impl TaskWaker ===

impl TaskWaker {
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU8::new(BORROWED),
            borrowed: AtomicPtr::new(ptr::null_mut()),
            data: AtomicPtr::new(ptr::null_mut()),
            vtable: AtomicPtr::new(ptr::null_mut()),
        }
    }

    #[inline(always)]
    pub(super) fn is_owned(&self) -> bool {
        // Acquire: pairs with the Release in `take_ownership`. Both halves are visible then.
        self.state.load(Ordering::Acquire) == OWNED
    }

    #[inline(always)]
    pub(super) fn borrow(&self, task: &Waker) {
        self.borrowed.store(ptr::from_ref(task).cast_mut(), Ordering::Relaxed);
    }

    /// Returns whether the owned waker wakes the same task. Must only be called if it is owned.
    #[inline(always)]
    pub(super) fn will_wake(&self, task: &Waker) -> bool {
        self.data.load(Ordering::Relaxed).cast_const() == task.data()
            && self.vtable.load(Ordering::Relaxed).cast_const() == ptr::from_ref(task.vtable())
    }

    /// # Safety
    ///
    /// - A poll that called [`borrow`](Self::borrow) must still be running.
    /// - The caller must have been reached through the waker that was lent to that poll, which
    ///   orders this call after the store.
    #[inline]
    pub(super) unsafe fn borrowed(&self) -> &Waker {
        // SAFETY: `borrow` stored a reference that lives as long as the poll.
        unsafe { &*self.borrowed.load(Ordering::Relaxed) }
    }

    /// # Safety
    ///
    /// [`is_owned`](Self::is_owned) must have returned `true`, or be known to.
    #[inline]
    pub(super) unsafe fn owned(&self) -> ManuallyDrop<Waker> {
        let (data, vtable) =
            (self.data.load(Ordering::Relaxed), self.vtable.load(Ordering::Relaxed));
        // SAFETY: the halves are those of one waker, which is dropped only by `clear`, when no
        // other thread has a reference.
        ManuallyDrop::new(unsafe { Waker::new(data, &*vtable) })
    }

    /// Replaces the borrowed waker by a clone of it. If another thread is doing so concurrently,
    /// does not wait; returns a plain clone of the task's waker, whose wakes are not stamped.
    ///
    /// # Safety
    ///
    /// As for [`borrowed`](Self::borrowed).
    pub(super) unsafe fn take_ownership(&self) -> Option<RawWaker> {
        // SAFETY: the caller guarantees the same.
        let task = ManuallyDrop::new(unsafe { self.borrowed() }.clone());
        // Relaxed: the thread that wins only writes; the Release below publishes what it wrote.
        let is_first = self
            .state
            .compare_exchange(BORROWED, CLONING, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if !is_first {
            return Some(RawWaker::new(task.data(), task.vtable()));
        }
        self.data.store(task.data().cast_mut(), Ordering::Relaxed);
        self.vtable.store(ptr::from_ref(task.vtable()).cast_mut(), Ordering::Relaxed);
        // Release: pairs with the Acquire in `is_owned`.
        self.state.store(OWNED, Ordering::Release);
        None
    }

    pub(super) fn clear(&mut self) {
        // Relaxed: `&mut self` excludes any concurrent access.
        if self.state.load(Ordering::Relaxed) == OWNED {
            self.state.store(BORROWED, Ordering::Relaxed);
            // SAFETY: the waker was owned, and is not any more.
            drop(ManuallyDrop::into_inner(unsafe { self.owned() }));
        }
    }
}

impl Drop for TaskWaker {
    fn drop(&mut self) {
        self.clear();
    }
}
