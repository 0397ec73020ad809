//! Wakes the watchdog at the first poll after an idle period.
//!
//! The poll path reads one flag. The flag is not ordered after the start of the poll that was just
//! published, so a poll that begins at the moment the watchdog arms the notifier may not see it
//! armed. The watchdog therefore scans once more, one period later, before it goes idle. loom knows
//! no time, so `watchdog/thread.rs` tests that second scan.

use std::sync::OnceLock;
use std::thread::Thread;

use crate::sync::{AtomicBool, Ordering};

/// Whether the watchdog waits for a poll, and how to wake it.
#[derive(Debug)]
pub(crate) struct Notifier {
    armed: AtomicBool,
    closed: AtomicBool,
    watchdog: OnceLock<Thread>,
}

impl Notifier {
    // === the polling threads' side ===

    /// Wakes the watchdog if it is waiting. Called at the start of each poll, after the poll has
    /// been published: one read of a cache line that only the watchdog writes to.
    #[inline]
    pub(crate) fn notify(&self) {
        // Relaxed: see the module's documentation.
        if self.armed.load(Ordering::Relaxed) {
            self.notify_armed();
        }
    }

    #[cold]
    fn notify_armed(&self) {
        if self.take_armed() {
            self.unpark();
        }
    }

    /// Disarms the notifier. Returns `true` to one of several concurrent callers.
    fn take_armed(&self) -> bool {
        self.armed.swap(false, Ordering::Relaxed)
    }

    /// Ends the watchdog.
    pub(crate) fn close(&self) {
        // Release: pairs with the Acquire in `is_closed`.
        self.closed.store(true, Ordering::Release);
        self.unpark();
    }

    fn unpark(&self) {
        if let Some(watchdog) = self.watchdog.get() {
            watchdog.unpark();
        }
    }

    // === the watchdog's side ===

    /// Sets the thread to wake. The spawner calls this before anything can close the notifier.
    pub(crate) fn set_thread(&self, watchdog: Thread) {
        let _ = self.watchdog.set(watchdog);
    }

    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
    }

    /// Returns `false` once a poll has woken the watchdog.
    pub(crate) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed)
    }

    pub(crate) fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        // Acquire: pairs with the Release in `close`.
        self.closed.load(Ordering::Acquire)
    }
}

impl Default for Notifier {
    fn default() -> Self {
        Self {
            armed: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            watchdog: OnceLock::new(),
        }
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use super::*;
    use crate::sync::check_publishes;
    use ::loom::{sync::Arc, thread};

    /// Polls that begin at the same time wake an armed watchdog once, and never one that is active.
    #[test]
    fn loom_one_of_several_polls_wakes_an_armed_watchdog() {
        ::loom::model(|| {
            let notifier = Arc::new(Notifier::default());
            notifier.arm();
            let other = {
                let notifier = Arc::clone(&notifier);
                thread::spawn(move || notifier.take_armed())
            };
            let wakes = [notifier.take_armed(), other.join().unwrap()];
            assert_eq!(wakes.iter().filter(|woke| **woke).count(), 1);
            assert!(!notifier.is_armed());
        });
    }

    /// The watchdog that is being closed sees everything that was written before.
    #[test]
    fn loom_closing_the_watchdog_publishes_what_was_written_before() {
        check_publishes(Notifier::close, Notifier::is_closed);
    }
}
