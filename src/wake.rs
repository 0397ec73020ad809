//! When a future was woken: the waker it gets stamps the time and wakes the task.
//!
//! A future that never waits never clones its waker, so the first poll lends it one that lives on the stack and becomes an
//! allocated one only when it is cloned.

#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::sync::{Arc, OnceLock};
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

/// A stamping waker on the stack.
struct Lazy<'a> {
    clock: &'a Clock,
    task: &'a Waker,
    stamp: OnceLock<Arc<Stamp>>,
}

// === impl Wakes ===

impl Wakes {
    /// When the future was first woken since this was last asked, in ticks.
    #[inline]
    pub(crate) fn take(&self) -> Option<u64> {
        let woken = &self.0.as_ref()?.stamp.woken;
        let is_set = woken.load(Ordering::Relaxed) != 0;
        is_set.then(|| woken.swap(0, Ordering::Relaxed))
    }

    /// Polls with a waker that stamps.
    #[inline]
    pub(crate) fn poll<R>(
        &mut self,
        clock: &Clock,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> R,
    ) -> R {
        match &self.0 {
            Some(stamping) if stamping.stamp.task.will_wake(cx.waker()) => {
                poll(&mut Context::from_waker(&stamping.waker))
            }
            // The first poll, or the future has moved to another task. Wakers of the old task are let go: they still wake it.
            _ => {
                let lazy = Lazy { clock, task: cx.waker(), stamp: OnceLock::new() };
                let result = poll(&mut Context::from_waker(&lazy.waker()));
                self.0 = lazy.stamp.into_inner().map(Stamping::new);
                result
            }
        }
    }
}

// === impl Stamping ===

impl Stamping {
    fn new(stamp: Arc<Stamp>) -> Self {
        let waker = Waker::from(Arc::clone(&stamp));
        Self { stamp, waker }
    }
}

// === impl Stamp ===

impl Stamp {
    fn stamp(&self) {
        let _ = self.woken.compare_exchange(0, self.clock.now(), Ordering::Relaxed, Ordering::Relaxed);
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

    /// A waker that borrows `self`. Its clones do not.
    fn waker(&self) -> ManuallyDrop<Waker> {
        const fn is_thread_safe<T: Send + Sync>() {}
        const { is_thread_safe::<Lazy<'_>>() };
        let data = std::ptr::from_ref(self).cast();
        // SAFETY: The contract of `RawWaker` is kept:
        // - all functions of the table take the pointer as a `&Lazy`, which is `Sync`, as asserted above;
        // - `data` outlives the waker: it is lent out by reference only, inside a `Context`, while `self` is borrowed by the
        //   caller, and nothing can own it, as it is in `ManuallyDrop`;
        // - `clone` gives a waker of its own, which does not point here; `drop` has nothing to give back.
        ManuallyDrop::new(unsafe { Waker::from_raw(RawWaker::new(data, &Self::VTABLE)) })
    }

    fn stamp(&self) -> &Arc<Stamp> {
        self.stamp.get_or_init(|| {
            let (clock, task) = (self.clock.clone(), self.task.clone());
            Arc::new(Stamp { clock, woken: AtomicU64::new(0), task })
        })
    }

    fn clone_raw(data: *const ()) -> RawWaker {
        // SAFETY: `data` is the `Lazy` that `waker` was called on; it is alive, as argued there.
        let lazy = unsafe { &*data.cast::<Lazy<'_>>() };
        let waker = ManuallyDrop::new(Waker::from(Arc::clone(lazy.stamp())));
        RawWaker::new(waker.data(), waker.vtable())
    }

    fn wake_by_ref_raw(data: *const ()) {
        // SAFETY: As in `clone_raw`.
        let lazy = unsafe { &*data.cast::<Lazy<'_>>() };
        lazy.stamp().wake_by_ref();
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
