//! When a future was woken: the waker it gets stamps the time and wakes the task.
//!
//! A future that never waits never clones its waker. So the task's own waker is only borrowed, for the time of each poll, until
//! somebody clones ours.

#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::{Arc, OnceLock};
// Not loom's: no model has it.
use std::sync::atomic::AtomicPtr;
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
    /// The task of the poll that goes on, until it is known in `task`.
    lent: AtomicPtr<Waker>,
    /// Set by the first clone.
    task: OnceLock<Waker>,
}

// === impl Wakes ===

impl Wakes {
    pub(crate) fn new(clock: Clock) -> Self {
        let lent = AtomicPtr::new(ptr::null_mut());
        let stamp = Arc::new(Stamp { clock, woken: AtomicU64::new(0), lent, task: OnceLock::new() });
        // SAFETY: The contract of `RawWaker` is kept by the functions of the table, each of which takes the pointer as one of
        // `Arc::into_raw`. This one has no count, so it must not be dropped, nor outlive `stamp`: it is in `ManuallyDrop`, and given
        // out as a reference that borrows `self`, where `stamp` is replaced together with it.
        let waker = unsafe { Waker::new(Arc::as_ptr(&stamp).cast(), &Stamp::VTABLE) };
        Self { stamp, waker: ManuallyDrop::new(waker) }
    }

    /// When the future was first woken since this was last asked, in ticks, or 0.
    #[inline(always)]
    pub(crate) fn take(&self) -> u64 {
        let woken = self.stamp.woken.load(Ordering::Relaxed);
        // A wake in between finds it stamped, and leads to the same poll. So a plain store does, which is a fifth of the time of a swap.
        if woken != 0 {
            self.stamp.woken.store(0, Ordering::Relaxed);
        }
        woken
    }

    /// A waker for one poll of a future of `task`.
    #[inline(always)]
    pub(crate) fn lend<'a>(&'a mut self, task: &'a Waker) -> &'a Waker {
        match self.stamp.task.get() {
            None => self.stamp.lent.store(ptr::from_ref(task).cast_mut(), Ordering::Relaxed),
            Some(known) if known.will_wake(task) => {}
            Some(_) => self.another_task(task),
        }
        &self.waker
    }

    /// Makes ready for another future: wakes that are still to come are not its.
    #[inline(always)]
    pub(crate) fn reset(&mut self) {
        if self.stamp.task.get().is_some() {
            self.forget();
        }
        self.stamp.woken.store(0, Ordering::Relaxed);
    }

    /// Wakers that are still out there wake the task that they are of, so they keep the stamp.
    #[cold]
    fn forget(&mut self) {
        match Arc::get_mut(&mut self.stamp) {
            Some(stamp) => drop(stamp.task.take()),
            None => *self = Self::new(self.stamp.clock.clone()),
        }
    }

    #[cold]
    fn another_task(&mut self, task: &Waker) {
        self.forget();
        self.stamp.lent.store(ptr::from_ref(task).cast_mut(), Ordering::Relaxed);
    }
}

// === impl Stamp ===

impl Stamp {
    const VTABLE: RawWakerVTable =
        RawWakerVTable::new(Self::clone_raw, Self::wake_raw, Self::wake_by_ref_raw, Self::drop_raw);

    /// The task's own waker, cloned now if it is the first time.
    #[inline]
    fn task(&self) -> &Waker {
        self.task.get_or_init(|| {
            // SAFETY: `lend` stored a reference, and gave the waker out for as long as that lives. Until `task` is set nobody has
            // a clone, so whoever calls this does it by that waker: the reference is alive. There is an order between the store and
            // this load, as whoever has the waker got it after the store.
            unsafe { &*self.lent.load(Ordering::Relaxed) }.clone()
        })
    }

    /// Of two wakes at once either may be the first.
    #[inline]
    fn wake(&self) {
        if self.woken.load(Ordering::Relaxed) == 0 {
            self.woken.store(self.clock.now(), Ordering::Relaxed);
        }
        self.task().wake_by_ref();
    }

    fn clone_raw(data: *const ()) -> RawWaker {
        // SAFETY: `data` is of `Arc::as_ptr` or `Arc::into_raw`, and somebody holds a count meanwhile: `Wakes`, or the waker that
        // is cloned.
        let stamp = ManuallyDrop::new(unsafe { Arc::from_raw(data.cast::<Self>()) });
        stamp.task();
        RawWaker::new(Arc::into_raw(Arc::clone(&stamp)).cast(), &Self::VTABLE)
    }

    fn wake_raw(data: *const ()) {
        // SAFETY: Only a clone can be woken by value, and it has a count, which is given back here.
        let stamp = unsafe { Arc::from_raw(data.cast::<Self>()) };
        stamp.wake();
    }

    fn wake_by_ref_raw(data: *const ()) {
        // SAFETY: Somebody holds a count meanwhile, as in `clone_raw`.
        unsafe { &*data.cast::<Self>() }.wake();
    }

    fn drop_raw(data: *const ()) {
        // SAFETY: Only a clone can be dropped, and it has a count, which is given back here.
        drop(unsafe { Arc::from_raw(data.cast::<Self>()) });
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
            poll(&mut Context::from_waker(self.lend(cx.waker())))
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
        assert!(wakes.stamp.task.get().is_none());
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
