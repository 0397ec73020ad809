use super::*;
use ::loom::thread;
use std::sync::atomic::AtomicUsize;
use std::task::Wake;
use std::time::Instant;

#[derive(Default)]
struct CountingTask(AtomicUsize);

impl Wake for CountingTask {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Two threads clone and wake a waker that was lent to one poll, as a `join` of two futures on
/// scoped threads would: every wake reaches the task, and nothing is freed twice or leaked.
#[test]
fn loom_concurrent_first_clones_forward_every_wake() {
    ::loom::model(|| {
        let task = Arc::new(CountingTask::default());
        let waker = Waker::from(Arc::clone(&task));
        let mut stamped = StampedWaker::new(Clock::Os(Instant::now()));
        let lent = stamped.for_poll(&waker, |_| ());
        // SAFETY: `waker` and `stamped` outlive the thread, which is joined below.
        let lent = unsafe { std::mem::transmute::<&Waker, &'static Waker>(lent) };
        let other = thread::spawn(move || lent.clone().wake());
        lent.clone().wake();
        other.join().unwrap();
        assert_eq!(task.0.load(Ordering::Relaxed), 2);
        drop(stamped);
        drop(waker);
        assert_eq!(Arc::strong_count(&task), 1);
    });
}

/// A clone on another thread wakes the task while the future is polled again.
#[test]
fn loom_a_wake_during_the_next_poll_reaches_the_task() {
    ::loom::model(|| {
        let task = Arc::new(CountingTask::default());
        let waker = Waker::from(Arc::clone(&task));
        let mut stamped = StampedWaker::new(Clock::Os(Instant::now()));
        let cloned = stamped.for_poll(&waker, |_| ()).clone();
        let other = thread::spawn(move || cloned.wake());
        drop(stamped.for_poll(&waker, |_| ()).clone());
        stamped.reset();
        other.join().unwrap();
        drop((stamped, waker));
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert_eq!(Arc::strong_count(&task), 1);
    });
}
