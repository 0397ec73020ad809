//! How the first poll after a quiet time wakes the watchdog.

use std::sync::OnceLock;
use std::thread::Thread;

use crate::sync::{AtomicBool, Ordering};

/// Whether the watchdog sleeps, and how to wake it.
#[derive(Debug)]
pub(crate) struct Alarm {
    armed: AtomicBool,
    closed: AtomicBool,
    watchdog: OnceLock<Thread>,
}

impl Alarm {
    /// Called at the start of each poll, once it is stamped: one read of a line that is written only when the watchdog goes to sleep or
    /// wakes.
    ///
    /// The read is not ordered after the poll's stamp, so a poll that starts in the very moment the watchdog arms the alarm may not
    /// see it. The watchdog therefore looks once more, a tick later, before it sleeps.
    #[inline]
    pub(crate) fn wake(&self) {
        if self.armed.load(Ordering::Relaxed) {
            self.sound();
        }
    }

    /// Ends the watchdog.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.unpark();
    }

    #[cold]
    fn sound(&self) {
        if self.armed.swap(false, Ordering::Relaxed) {
            self.unpark();
        }
    }

    fn unpark(&self) {
        if let Some(watchdog) = self.watchdog.get() {
            watchdog.unpark();
        }
    }

    // The watchdog's side.

    /// Makes `watchdog` the one that is woken. Said by whoever has started it, before anybody can close the alarm.
    pub(crate) fn attend(&self, watchdog: Thread) {
        let _ = self.watchdog.set(watchdog);
    }

    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
    }

    /// `false` once it has sounded.
    pub(crate) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed)
    }

    pub(crate) fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Default for Alarm {
    fn default() -> Self {
        Self { armed: AtomicBool::new(false), closed: AtomicBool::new(false), watchdog: OnceLock::new() }
    }
}
