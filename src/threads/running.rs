//! The threads of a monitor, which can be joined with a timeout.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

/// The threads of a monitor, running or not yet joined.
#[derive(Debug, Default)]
pub(super) struct Threads {
    handles: Mutex<Vec<JoinHandle<()>>>,
    running: Arc<RunningThreads>,
}

/// The number of threads that have not ended.
#[derive(Debug, Default)]
struct RunningThreads {
    count: Mutex<usize>,
    has_changed: Condvar,
}

/// Counts a thread as running until it is dropped.
struct RunningThread(Arc<RunningThreads>);

// === impl Threads ===

impl Threads {
    pub(super) fn spawn(
        &self,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<Thread> {
        let running = RunningThread::new(&self.running);
        let run = move || {
            let _running = running;
            run();
        };
        let handle = thread::Builder::new().name(name.into()).spawn(run)?;
        let thread = handle.thread().clone();
        lock(&self.handles).push(handle);
        Ok(thread)
    }

    pub(super) fn join(&self, timeout: Duration) {
        let current = thread::current().id();
        let is_current = |handle: &JoinHandle<()>| handle.thread().id() == current;
        if lock(&self.handles).iter().any(is_current) {
            return;
        }
        let count = lock(&self.running.count);
        let waited = self.running.has_changed.wait_timeout_while(count, timeout, |n| *n > 0);
        let has_timed_out = waited.is_ok_and(|(_, result)| result.timed_out());
        if !has_timed_out {
            // Not under the lock: destructors of thread-local values run before a thread ends.
            let handles = std::mem::take(&mut *lock(&self.handles));
            handles.into_iter().for_each(|handle| drop(handle.join()));
        }
    }
}

// === impl RunningThread ===

impl RunningThread {
    fn new(threads: &Arc<RunningThreads>) -> Self {
        *lock(&threads.count) += 1;
        Self(Arc::clone(threads))
    }
}

impl Drop for RunningThread {
    fn drop(&mut self) {
        *lock(&self.0.count) -= 1;
        self.0.has_changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// As a hook does that shuts its monitor down.
    #[test]
    fn a_thread_that_joins_the_threads_does_not_wait_for_itself() {
        let threads = Arc::new(Threads::default());
        let (start, is_started) = mpsc::channel::<()>();
        let own = Arc::clone(&threads);
        let joins = move || {
            is_started.recv().unwrap();
            own.join(Duration::MAX);
        };
        threads.spawn("joins", joins).unwrap();
        start.send(()).unwrap();
        threads.join(Duration::MAX);
        assert!(lock(&threads.handles).is_empty());
    }
}
