//! When a future was woken: the waker it gets stamps the time and wakes the task.
//!
//! A future that never waits never clones its waker. So the task's own waker is only borrowed, for the time of each poll, until
//! somebody clones ours.

#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::Arc;
// Not loom's: no model has it.
use std::sync::atomic::{AtomicPtr, AtomicU8};
use std::task::{RawWaker, RawWakerVTable, Waker};

use crate::clock::Clock;
use crate::sync::{AtomicU64, Ordering};

/// The wakes of one future after the other.
#[derive(Debug)]
pub(crate) struct Wakes {
    stamp: Arc<Stamp>,
    /// Points to `stamp`, without a count of its own. Given out only by [`lend`](Self::lend).
    waker: ManuallyDrop<Waker>,
}

/// What all clones of a stamping waker share. Aligned so that no two threads write to one cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Stamp {
    clock: Clock,
    /// When the first wake since the last poll was, in ticks; 0 for none.
    woken: AtomicU64,
    task: Task,
}

/// The waker of the future's task: lent for the poll that goes on, until it is needed for longer.
#[derive(Debug)]
struct Task {
    state: AtomicU8,
    /// Valid while a poll goes on, if it is not `KEPT`.
    lent: AtomicPtr<Waker>,
    /// The two halves of a clone that is `KEPT`.
    data: AtomicPtr<()>,
    vtable: AtomicPtr<RawWakerVTable>,
}

/// Nobody has a clone of ours.
const LENT: u8 = 0;
/// Nobody has one yet, but somebody is about to make the first.
const TAKING: u8 = 1;
/// A clone of the task's waker is here, for ours.
const KEPT: u8 = 2;

// === impl Wakes ===

impl Wakes {
    pub(crate) fn new(clock: Clock) -> Self {
        let stamp = Arc::new(Stamp { clock, woken: AtomicU64::new(0), task: Task::new() });
        // SAFETY: The contract of `RawWaker` is kept by the functions of the table, each of which takes the pointer as one of
        // `Arc::into_raw`. This one has no count, so it must not be dropped, nor outlive `stamp`: it is in `ManuallyDrop`, and given
        // out as a reference that borrows `self`, where `stamp` is replaced together with it.
        let waker = unsafe { Waker::new(Arc::as_ptr(&stamp).cast(), &Stamp::VTABLE) };
        Self { stamp, waker: ManuallyDrop::new(waker) }
    }

    /// A waker for one poll of a future of `task`. `woken` is told when the future was first woken since the last one, in ticks, if it was.
    #[inline(always)]
    pub(crate) fn lend<'a>(&'a mut self, task: &'a Waker, woken: impl FnOnce(u64)) -> &'a Waker {
        let stamp = &*self.stamp;
        let first = stamp.woken.load(Ordering::Relaxed);
        if first != 0 {
            // A wake in between found it stamped, and led to the same poll. So a plain store does, which is a fifth of the time of a swap.
            stamp.woken.store(0, Ordering::Relaxed);
            woken(first);
        }
        if !stamp.task.is_kept() {
            stamp.task.lend(task);
        } else if !stamp.task.is(task) {
            self.another_task(task);
        }
        &self.waker
    }

    /// Makes ready for another future: wakes that are still to come are not its.
    #[inline(always)]
    pub(crate) fn reset(&mut self) {
        if self.stamp.task.is_kept() {
            self.forget();
        }
        self.stamp.woken.store(0, Ordering::Relaxed);
    }

    /// Wakers that are still out there wake the task that they are of, so they keep the stamp.
    fn forget(&mut self) {
        match Arc::get_mut(&mut self.stamp) {
            Some(stamp) => stamp.task.forget(),
            None => self.renew(),
        }
    }

    #[cold]
    fn renew(&mut self) {
        *self = Self::new(self.stamp.clock.clone());
    }

    #[cold]
    fn another_task(&mut self, task: &Waker) {
        self.forget();
        self.stamp.task.lend(task);
    }
}

// === impl Stamp ===

impl Stamp {
    const VTABLE: RawWakerVTable =
        RawWakerVTable::new(Self::clone_raw, Self::wake_raw, Self::wake_by_ref_raw, Self::drop_raw);

    /// Of two wakes at once either may be the first.
    #[inline]
    fn now(&self) {
        if self.woken.load(Ordering::Relaxed) == 0 {
            self.woken.store(self.clock.now(), Ordering::Relaxed);
        }
    }

    fn clone_raw(data: *const ()) -> RawWaker {
        // SAFETY: `data` is of `Arc::as_ptr` or `Arc::into_raw`, and somebody holds a count meanwhile: `Wakes`, or the waker that
        // is cloned.
        let stamp = unsafe { &*data.cast::<Self>() };
        if !stamp.task.is_kept() {
            return Self::first_clone(data);
        }
        // SAFETY: As above; the count is the new waker's.
        unsafe { Arc::increment_strong_count(data.cast::<Self>()) };
        RawWaker::new(data, &Self::VTABLE)
    }

    #[cold]
    #[inline(never)]
    fn first_clone(data: *const ()) -> RawWaker {
        // SAFETY: As in `clone_raw`, whose `data` it is. And nobody had a clone before, so whoever calls this does it by the waker that
        // was lent, during the poll.
        match unsafe { (*data.cast::<Self>()).task.keep() } {
            None => Self::clone_raw(data),
            Some(unstamped) => unstamped,
        }
    }

    fn wake_raw(data: *const ()) {
        // SAFETY: Only a clone can be woken by value, and it has a count, which is given back at the end: lost only if the task's waker
        // panics. As there is a clone, that was kept before.
        unsafe {
            let stamp = &*data.cast::<Self>();
            stamp.now();
            stamp.task.kept().wake_by_ref();
            Arc::decrement_strong_count(data.cast::<Self>());
        }
    }

    fn wake_by_ref_raw(data: *const ()) {
        // SAFETY: Somebody holds a count meanwhile, as in `clone_raw`.
        let stamp = unsafe { &*data.cast::<Self>() };
        stamp.now();
        if stamp.task.is_kept() {
            // SAFETY: It is kept.
            unsafe { stamp.task.kept() }.wake_by_ref();
        } else {
            // SAFETY: Nobody has a clone, so this is called by the waker that was lent, during the poll.
            unsafe { stamp.task.lent() }.wake_by_ref();
        }
    }

    fn drop_raw(data: *const ()) {
        // SAFETY: Only a clone can be dropped, and it has a count, which is given back here.
        drop(unsafe { Arc::from_raw(data.cast::<Self>()) });
    }
}

// === impl Task ===

impl Task {
    fn new() -> Self {
        Self {
            state: AtomicU8::new(LENT),
            lent: AtomicPtr::new(ptr::null_mut()),
            data: AtomicPtr::new(ptr::null_mut()),
            vtable: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Acquire, the partner of the Release in [`keep`](Self::keep): then both halves are there.
    #[inline(always)]
    fn is_kept(&self) -> bool {
        self.state.load(Ordering::Acquire) == KEPT
    }

    #[inline(always)]
    fn lend(&self, task: &Waker) {
        self.lent.store(ptr::from_ref(task).cast_mut(), Ordering::Relaxed);
    }

    /// Whether the one that is kept wakes the same task.
    #[inline(always)]
    fn is(&self, task: &Waker) -> bool {
        self.data.load(Ordering::Relaxed).cast_const() == task.data()
            && self.vtable.load(Ordering::Relaxed).cast_const() == ptr::from_ref(task.vtable())
    }

    /// # Safety
    ///
    /// By the waker that was lent, while the poll goes on. Whoever has that got it after the store, so the order is right.
    #[inline]
    unsafe fn lent(&self) -> &Waker {
        // SAFETY: `lend` stored a reference, which lives as long as the poll.
        unsafe { &*self.lent.load(Ordering::Relaxed) }
    }

    /// # Safety
    ///
    /// Where one is kept.
    #[inline]
    unsafe fn kept(&self) -> ManuallyDrop<Waker> {
        let (data, vtable) = (self.data.load(Ordering::Relaxed), self.vtable.load(Ordering::Relaxed));
        // SAFETY: The halves are of one waker, which is only dropped by `forget`, where nobody else has a reference.
        ManuallyDrop::new(unsafe { Waker::new(data, &*vtable) })
    }

    /// Keeps a clone of the waker that is lent. If another thread is doing so this very moment, it is not worth to wait for: here is one
    /// that wakes the task without a stamp.
    ///
    /// # Safety
    ///
    /// As for [`lent`](Self::lent).
    unsafe fn keep(&self) -> Option<RawWaker> {
        // SAFETY: The caller's.
        let task = ManuallyDrop::new(unsafe { self.lent() }.clone());
        if self.state.compare_exchange(LENT, TAKING, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return Some(RawWaker::new(task.data(), task.vtable()));
        }
        self.data.store(task.data().cast_mut(), Ordering::Relaxed);
        self.vtable.store(ptr::from_ref(task.vtable()).cast_mut(), Ordering::Relaxed);
        self.state.store(KEPT, Ordering::Release);
        None
    }

    fn forget(&mut self) {
        if std::mem::replace(self.state.get_mut(), LENT) == KEPT {
            // SAFETY: It was kept, and is not any more.
            drop(ManuallyDrop::into_inner(unsafe { self.kept() }));
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(all(test, not(tower_stall_loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64 as Time, AtomicUsize};
    use std::task::{Context, Poll, Wake};

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Wakes {
        fn poll<R>(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> R) -> R {
            poll(&mut Context::from_waker(self.lend(cx.waker(), |_| ())))
        }

        fn take(&self) -> u64 {
            self.stamp.woken.swap(0, Ordering::Relaxed)
        }
    }

    fn setup() -> (Arc<Time>, Clock, Arc<Task>, Waker) {
        let time = Arc::new(Time::new(1));
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        (Arc::clone(&time), Clock::Manual(time), task, waker)
    }

    #[test]
    fn of_a_future_that_does_not_wait_the_task_is_not_cloned() {
        let (_, clock, _, waker) = setup();
        let mut wakes = Wakes::new(clock);
        assert!(wakes.poll(&mut Context::from_waker(&waker), |_| Poll::Ready(())).is_ready());
        assert!(!wakes.stamp.task.is_kept());
    }

    #[test]
    fn the_first_wake_is_stamped_and_every_wake_passed_on() {
        let (time, clock, task, waker) = setup();
        let mut wakes = Wakes::new(clock);
        let kept = wakes.poll(&mut Context::from_waker(&waker), |cx| cx.waker().clone());
        assert_eq!(wakes.take(), 0);
        time.store(70, Ordering::Relaxed);
        kept.wake_by_ref();
        time.store(90, Ordering::Relaxed);
        kept.wake();
        assert_eq!(wakes.take(), 70);
        assert_eq!(wakes.take(), 0);
        assert_eq!(task.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_later_poll_of_the_same_task_gets_the_same_waker() {
        let (_, clock, _, waker) = setup();
        let mut wakes = Wakes::new(clock);
        let mut cx = Context::from_waker(&waker);
        let first = wakes.poll(&mut cx, |cx| cx.waker().clone());
        assert!(wakes.poll(&mut cx, |cx| cx.waker().will_wake(&first)));
    }

    #[test]
    fn a_future_that_moves_to_another_task_wakes_that_one() {
        let (_, clock, first, first_waker) = setup();
        let (_, _, second, second_waker) = setup();
        let mut wakes = Wakes::new(clock);
        wakes.poll(&mut Context::from_waker(&first_waker), |cx| cx.waker().clone());
        let kept = wakes.poll(&mut Context::from_waker(&second_waker), |cx| cx.waker().clone());
        kept.wake();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
        assert_eq!(wakes.take(), 1);
    }

    #[test]
    fn a_wake_inside_the_poll_and_without_a_clone_is_stamped() {
        let (_, clock, task, waker) = setup();
        let mut wakes = Wakes::new(clock);
        wakes.poll(&mut Context::from_waker(&waker), |cx| cx.waker().wake_by_ref());
        assert_eq!(wakes.take(), 1);
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_next_future_is_not_woken_by_wakers_of_the_last() {
        let (_, clock, first, first_waker) = setup();
        let (_, _, second, second_waker) = setup();
        let mut wakes = Wakes::new(clock);
        let kept = wakes.poll(&mut Context::from_waker(&first_waker), |cx| cx.waker().clone());
        wakes.reset();
        wakes.poll(&mut Context::from_waker(&second_waker), |cx| drop(cx.waker().clone()));
        kept.wake();
        assert_eq!(wakes.take(), 0);
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (1, 0));
    }

    #[test]
    fn without_wakers_left_the_next_future_goes_on_with_the_same_memory() {
        let (_, clock, task, waker) = setup();
        let mut wakes = Wakes::new(clock);
        let stamp = Arc::as_ptr(&wakes.stamp);
        for _ in 0..2 {
            wakes.poll(&mut Context::from_waker(&waker), |cx| cx.waker().clone()).wake();
            assert_eq!(Arc::strong_count(&task), 3);
            wakes.reset();
            assert_eq!(Arc::strong_count(&task), 2, "the task is let go");
            assert_eq!((wakes.take(), Arc::as_ptr(&wakes.stamp)), (0, stamp));
        }
    }

    #[test]
    fn wakers_go_to_other_threads_and_outlive_the_future() {
        let (_, clock, task, waker) = setup();
        let mut wakes = Wakes::new(clock);
        let kept = wakes.poll(&mut Context::from_waker(&waker), |cx| cx.waker().clone());
        drop(wakes);
        let threads: Vec<_> = (0..4).map(|_| kept.clone()).map(|waker| std::thread::spawn(|| waker.wake())).collect();
        for thread in threads {
            thread.join().unwrap();
        }
        drop(kept);
        assert_eq!(task.0.load(Ordering::Relaxed), 4);
        drop(waker);
        assert_eq!(Arc::strong_count(&task), 1);
    }
}
