//! When a future was woken: the waker it gets stamps the time and wakes the task.
//!
//! A future that never waits never clones its waker, so the first poll lends it one that lives on the stack and becomes an
//! allocated one only when it is cloned.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;
// Not loom's: no model has it.
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::task::{Context, RawWaker, RawWakerVTable, Wake, Waker};

use crate::clock::Clock;
use crate::sync::{AtomicU64, Ordering};

/// The wakes of one future.
#[derive(Debug, Default)]
pub(crate) struct Wakes(Option<Stamping>);

#[derive(Debug)]
struct Stamping {
    stamp: Arc<Stamp>,
    /// Made of `stamp`, and kept so that a poll need not make it.
    waker: Waker,
}

/// What all clones of a stamping waker share.
#[derive(Debug)]
struct Stamp {
    clock: Clock,
    /// When the first wake since the last poll was, in ticks; 0 for none.
    woken: AtomicU64,
    task: Waker,
}

/// What one poll is woken by: the waker that a poll before left, or one on the stack that becomes an allocated one only when it is cloned.
#[derive(Debug)]
pub(crate) struct Lent<'a> {
    wakes: &'a mut Wakes,
    /// Whether the polls before were of the same task.
    same_task: bool,
    lazy: Lazy<'a>,
}

/// A stamping waker on the stack.
#[derive(Debug)]
struct Lazy<'a> {
    clock: &'a Clock,
    task: &'a Waker,
    /// An `Arc` of its own once the waker was cloned, null before. A `OnceLock` takes five times the instructions.
    stamp: AtomicPtr<Stamp>,
}

/// A waker that is not to be dropped.
pub(crate) enum Borrowed<'a> {
    Kept(&'a Waker),
    OnStack(ManuallyDrop<Waker>, PhantomData<&'a Waker>),
}

// === impl Wakes ===

impl Wakes {
    /// When the future was first woken since this was last asked, in ticks.
    #[inline(always)]
    pub(crate) fn take(&self) -> Option<u64> {
        let stamp = &self.0.as_ref()?.stamp;
        let woken = stamp.woken.load(Ordering::Relaxed);
        // A wake in between finds it stamped, and leads to the same poll. So a plain store does, which is a fifth of the time of a swap.
        (woken != 0).then(|| {
            stamp.woken.store(0, Ordering::Relaxed);
            woken
        })
    }

    /// Lends a waker for one poll of a future of `task`.
    #[inline(always)]
    pub(crate) fn lend<'a>(&'a mut self, clock: &'a Clock, task: &'a Waker) -> Lent<'a> {
        // Wakers of another task are let go once there are new ones: they still wake that one.
        let same_task = self.0.as_ref().is_some_and(|stamping| stamping.stamp.task.will_wake(task));
        Lent { wakes: self, same_task, lazy: Lazy { clock, task, stamp: AtomicPtr::new(ptr::null_mut()) } }
    }

    /// Polls with a waker that stamps.
    pub(crate) fn poll<R>(
        &mut self,
        clock: &Clock,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> R,
    ) -> R {
        let lent = self.lend(clock, cx.waker());
        let result = poll(&mut Context::from_waker(&lent.waker()));
        lent.end();
        result
    }
}

// === impl Lent ===

impl Lent<'_> {
    #[inline(always)]
    pub(crate) fn waker(&self) -> Borrowed<'_> {
        match &self.wakes.0 {
            Some(stamping) if self.same_task => Borrowed::Kept(&stamping.waker),
            _ => self.lazy.waker(),
        }
    }

    /// The poll is over: the waker is kept for further ones, if it was cloned.
    #[inline(always)]
    pub(crate) fn end(mut self) {
        if let Some(stamp) = self.lazy.take() {
            self.wakes.0 = Some(Stamping::new(stamp));
        }
    }
}

// === impl Borrowed ===

impl Deref for Borrowed<'_> {
    type Target = Waker;

    #[inline(always)]
    fn deref(&self) -> &Waker {
        match self {
            Self::Kept(waker) => waker,
            Self::OnStack(waker, _) => waker,
        }
    }
}

// === impl Stamping ===

impl Stamping {
    #[cold]
    fn new(stamp: Arc<Stamp>) -> Self {
        let waker = Waker::from(Arc::clone(&stamp));
        Self { stamp, waker }
    }
}

// === impl Stamp ===

impl Stamp {
    /// Of two wakes at once either may be the first.
    #[inline]
    fn stamp(&self) {
        if self.woken.load(Ordering::Relaxed) == 0 {
            self.woken.store(self.clock.now(), Ordering::Relaxed);
        }
    }
}

impl Wake for Stamp {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.stamp();
        self.task.wake_by_ref();
    }
}

// === impl Lazy ===

impl Lazy<'_> {
    const VTABLE: RawWakerVTable =
        RawWakerVTable::new(Self::clone_raw, Self::wake_by_ref_raw, Self::wake_by_ref_raw, |_| {});

    #[inline(always)]
    fn take(&mut self) -> Option<Arc<Stamp>> {
        let stamp = std::mem::replace(self.stamp.get_mut(), ptr::null_mut());
        // SAFETY: what is not null came from `Arc::into_raw` in `stamp`, and is given back once: it is null from here on.
        (!stamp.is_null()).then(|| unsafe { Arc::from_raw(stamp) })
    }

    /// A waker that borrows `self`. Its clones do not.
    #[inline(always)]
    fn waker(&self) -> Borrowed<'_> {
        const fn is_thread_safe<T: Send + Sync>() {}
        const { is_thread_safe::<Lazy<'_>>() };
        let data = std::ptr::from_ref(self).cast();
        // SAFETY: The contract of `RawWaker` is kept:
        // - all functions of the table take the pointer as a `&Lazy`, which is `Sync`, as asserted above;
        // - `data` outlives the waker: `Borrowed` borrows `self`, and gives out references only, so nothing can own the waker, as it
        //   is in `ManuallyDrop`;
        // - `clone` gives a waker of its own, which does not point here; `drop` has nothing to give back.
        let waker = unsafe { Waker::from_raw(RawWaker::new(data, &Self::VTABLE)) };
        Borrowed::OnStack(ManuallyDrop::new(waker), PhantomData)
    }

    /// The allocated one, made now if it is the first time. Two threads may do so at once: one of them wins.
    fn stamp(&self) -> ManuallyDrop<Arc<Stamp>> {
        let mut stamp = self.stamp.load(Acquire);
        if stamp.is_null() {
            let (clock, task) = (self.clock.clone(), self.task.clone());
            let new = Arc::new(Stamp { clock, woken: AtomicU64::new(0), task });
            stamp = Arc::into_raw(new).cast_mut();
            if let Err(first) = self.stamp.compare_exchange(ptr::null_mut(), stamp, AcqRel, Acquire) {
                // SAFETY: the `Arc` that was made above, which nobody else has seen.
                drop(unsafe { Arc::from_raw(stamp) });
                stamp = first;
            }
        }
        // SAFETY: of `Arc::into_raw`, here or on the thread that won; the `Arc` is `self`'s until `take`, which has `self` for itself,
        // and this reference is not dropped.
        ManuallyDrop::new(unsafe { Arc::from_raw(stamp) })
    }

    fn clone_raw(data: *const ()) -> RawWaker {
        // SAFETY: `data` is the `Lazy` that `waker` was called on; it is alive, as argued there.
        let lazy = unsafe { &*data.cast::<Lazy<'_>>() };
        let waker = ManuallyDrop::new(Waker::from(Arc::clone(&lazy.stamp())));
        RawWaker::new(waker.data(), waker.vtable())
    }

    fn wake_by_ref_raw(data: *const ()) {
        // SAFETY: As in `clone_raw`.
        let lazy = unsafe { &*data.cast::<Lazy<'_>>() };
        lazy.stamp().wake_by_ref();
    }
}

impl Drop for Lazy<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        drop(self.take());
    }
}

#[cfg(all(test, not(tower_stall_loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64 as Time, AtomicUsize};
    use std::task::Poll;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn setup() -> (Arc<Time>, Clock, Arc<Task>, Waker) {
        let time = Arc::new(Time::new(1));
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        (Arc::clone(&time), Clock::Manual(time), task, waker)
    }

    #[test]
    fn a_future_that_does_not_wait_allocates_nothing() {
        let (_, clock, _, waker) = setup();
        let mut wakes = Wakes::default();
        assert!(wakes.poll(&clock, &mut Context::from_waker(&waker), |_| Poll::Ready(())).is_ready());
        assert!(wakes.0.is_none());
    }

    #[test]
    fn the_first_wake_is_stamped_and_every_wake_passed_on() {
        let (time, clock, task, waker) = setup();
        let mut wakes = Wakes::default();
        let kept = wakes.poll(&clock, &mut Context::from_waker(&waker), |cx| cx.waker().clone());
        assert_eq!(wakes.take(), None);
        time.store(70, Ordering::Relaxed);
        kept.wake_by_ref();
        time.store(90, Ordering::Relaxed);
        kept.wake();
        assert_eq!(wakes.take(), Some(70));
        assert_eq!(wakes.take(), None);
        assert_eq!(task.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_later_poll_of_the_same_task_gets_the_same_waker() {
        let (_, clock, _, waker) = setup();
        let mut wakes = Wakes::default();
        let mut cx = Context::from_waker(&waker);
        let first = wakes.poll(&clock, &mut cx, |cx| cx.waker().clone());
        assert!(wakes.poll(&clock, &mut cx, |cx| cx.waker().will_wake(&first)));
    }

    #[test]
    fn a_future_that_moves_to_another_task_wakes_that_one() {
        let (_, clock, first, first_waker) = setup();
        let (_, _, second, second_waker) = setup();
        let mut wakes = Wakes::default();
        wakes.poll(&clock, &mut Context::from_waker(&first_waker), |cx| cx.waker().clone());
        let kept = wakes.poll(&clock, &mut Context::from_waker(&second_waker), |cx| cx.waker().clone());
        kept.wake();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
        assert_eq!(wakes.take(), Some(1));
    }

    #[test]
    fn a_wake_inside_the_poll_and_without_a_clone_is_stamped() {
        let (_, clock, task, waker) = setup();
        let mut wakes = Wakes::default();
        wakes.poll(&clock, &mut Context::from_waker(&waker), |cx| cx.waker().wake_by_ref());
        assert_eq!(wakes.take(), Some(1));
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn wakers_go_to_other_threads_and_outlive_the_future() {
        let (_, clock, task, waker) = setup();
        let mut wakes = Wakes::default();
        let kept = wakes.poll(&clock, &mut Context::from_waker(&waker), |cx| cx.waker().clone());
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
