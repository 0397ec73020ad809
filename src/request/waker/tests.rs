use super::*;
use std::sync::atomic::{AtomicU64 as Time, AtomicUsize};
use std::task::{Context, Poll, Wake};

#[derive(Default)]
struct CountingTask(AtomicUsize);

impl Wake for CountingTask {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl CountingTask {
    fn wakes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl StampedWaker {
    fn poll<R>(&mut self, task: &Waker, poll: impl FnOnce(&mut Context<'_>) -> R) -> R {
        poll(&mut Context::from_waker(self.for_poll(task, |_| ())))
    }

    fn take_woken_at(&self) -> u64 {
        self.inner.woken_at.swap(0, Ordering::Relaxed)
    }
}

fn clock() -> (Arc<Time>, Clock) {
    let time = Arc::new(Time::new(1));
    (Arc::clone(&time), Clock::Manual(time))
}

fn task() -> (Arc<CountingTask>, Waker) {
    let task = Arc::new(CountingTask::default());
    (Arc::clone(&task), Waker::from(task))
}

fn clone(cx: &mut Context<'_>) -> Waker {
    cx.waker().clone()
}

#[test]
fn a_future_that_does_not_wait_clones_no_waker() {
    let (_, waker) = task();
    let mut stamped = StampedWaker::new(clock().1);
    assert!(stamped.poll(&waker, |_| Poll::Ready(())).is_ready());
    assert!(!stamped.inner.task.is_owned());
}

#[test]
fn the_first_wake_is_stamped_and_every_wake_is_forwarded() {
    let ((time, clock), (task, waker)) = (clock(), task());
    let mut stamped = StampedWaker::new(clock);
    let cloned = stamped.poll(&waker, clone);
    assert_eq!(stamped.take_woken_at(), 0);
    time.store(70, Ordering::Relaxed);
    cloned.wake_by_ref();
    time.store(90, Ordering::Relaxed);
    cloned.wake();
    assert_eq!(stamped.take_woken_at(), 70);
    assert_eq!(stamped.take_woken_at(), 0);
    assert_eq!(task.wakes(), 2);
}

#[test]
fn a_later_poll_of_the_same_task_gets_the_same_waker() {
    let (_, waker) = task();
    let mut stamped = StampedWaker::new(clock().1);
    let first = stamped.poll(&waker, clone);
    assert!(stamped.poll(&waker, |cx| cx.waker().will_wake(&first)));
}

#[test]
fn a_future_that_moves_to_another_task_wakes_that_task() {
    let ((first, first_waker), (second, second_waker)) = (task(), task());
    let mut stamped = StampedWaker::new(clock().1);
    stamped.poll(&first_waker, clone);
    stamped.poll(&second_waker, clone).wake();
    assert_eq!((first.wakes(), second.wakes()), (0, 1));
    assert_eq!(stamped.take_woken_at(), 1);
}

#[test]
fn a_wake_inside_the_poll_is_stamped_without_a_clone() {
    let (task, waker) = task();
    let mut stamped = StampedWaker::new(clock().1);
    stamped.poll(&waker, |cx| cx.waker().wake_by_ref());
    assert!(!stamped.inner.task.is_owned());
    assert_eq!(stamped.take_woken_at(), 1);
    assert_eq!(task.wakes(), 1);
}

#[test]
fn wakers_of_the_last_future_do_not_wake_the_next_one() {
    let ((first, first_waker), (second, second_waker)) = (task(), task());
    let mut stamped = StampedWaker::new(clock().1);
    let outdated = stamped.poll(&first_waker, clone);
    stamped.reset();
    drop(stamped.poll(&second_waker, clone));
    outdated.wake();
    assert_eq!(stamped.take_woken_at(), 0);
    assert_eq!((first.wakes(), second.wakes()), (1, 0));
}

#[test]
fn the_memory_is_reused_if_no_waker_is_left() {
    let (task, waker) = task();
    let mut stamped = StampedWaker::new(clock().1);
    let inner = Arc::as_ptr(&stamped.inner);
    for _ in 0..2 {
        stamped.poll(&waker, clone).wake();
        assert_eq!(Arc::strong_count(&task), 3);
        stamped.reset();
        assert_eq!(Arc::strong_count(&task), 2, "the task's waker is released");
        assert_eq!((stamped.take_woken_at(), Arc::as_ptr(&stamped.inner)), (0, inner));
    }
}

#[test]
fn wakers_move_to_other_threads_and_outlive_the_future() {
    let (task, waker) = task();
    let mut stamped = StampedWaker::new(clock().1);
    let cloned = stamped.poll(&waker, clone);
    drop(stamped);
    let threads: Vec<_> =
        (0..4).map(|_| cloned.clone()).map(|waker| std::thread::spawn(|| waker.wake())).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    drop(cloned);
    assert_eq!(task.wakes(), 4);
    drop(waker);
    assert_eq!(Arc::strong_count(&task), 1);
}
