//! A bounded queue to a thread that runs code of others, and may hang in it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The sender never waits for what the receiver does with an entry: the receiver holds the lock
/// only while it takes one.
#[derive(Debug)]
pub(crate) struct Outbox<T> {
    inner: Mutex<Inner<T>>,
    has_changed: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    entries: VecDeque<T>,
    is_closed: bool,
    has_ended: bool,
}

impl<T> Outbox<T> {
    /// A report with its stack is some 4 KiB.
    const CAPACITY: usize = 1024;

    // === the sender's side ===

    /// Returns the entry if the outbox is full or closed.
    pub(super) fn send(&self, entry: T) -> Result<(), T> {
        let mut inner = self.lock();
        if inner.is_closed || inner.entries.len() >= Self::CAPACITY {
            return Err(entry);
        }
        inner.entries.push_back(entry);
        drop(inner);
        self.has_changed.notify_all();
        Ok(())
    }

    /// Calls a function with each entry that the receiver has not taken, oldest first.
    pub(super) fn for_each(&self, f: impl FnMut(&mut T)) {
        self.lock().entries.iter_mut().for_each(f);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().entries.is_empty()
    }

    /// Lets the receiver end once it has taken everything.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.has_changed.notify_all();
    }

    /// Waits until the receiver has ended, or until a deadline.
    pub(crate) fn wait_for_end(&self, deadline: Instant) {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let has_not_ended = |inner: &mut Inner<T>| !inner.has_ended;
        drop(self.has_changed.wait_timeout_while(self.lock(), timeout, has_not_ended));
    }

    // === the receiver's side ===

    /// Calls a function with each entry, until the outbox is closed and empty.
    pub(super) fn receive_all(&self, mut receive: impl FnMut(T)) {
        while let Some(entry) = self.wait_for_entry() {
            receive(entry);
        }
        self.lock().has_ended = true;
        self.has_changed.notify_all();
    }

    fn wait_for_entry(&self) -> Option<T> {
        let is_waiting = |inner: &mut Inner<T>| inner.entries.is_empty() && !inner.is_closed;
        let inner = self.has_changed.wait_while(self.lock(), is_waiting);
        inner.unwrap_or_else(PoisonError::into_inner).entries.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        let inner = Inner { entries: VecDeque::new(), is_closed: false, has_ended: false };
        Self { inner: Mutex::new(inner), has_changed: Condvar::new() }
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
impl<T> Outbox<T> {
    /// Takes the entries that the receiver would get.
    pub(super) fn take_all(&self) -> Vec<T> {
        self.lock().entries.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_full_outbox_returns_the_entry_and_a_closed_one_is_emptied_first() {
        let outbox = Outbox::default();
        let sent = (0..2_000).take_while(|number| outbox.send(*number).is_ok()).count();
        assert_eq!((sent, outbox.send(7)), (1024, Err(7)));
        outbox.close();
        let mut received = Vec::new();
        outbox.receive_all(|number| received.push(number));
        assert_eq!(received, (0..1024).collect::<Vec<_>>());
        assert_eq!(outbox.send(8), Err(8));
        outbox.wait_for_end(Instant::now() + Duration::from_secs(3_600));
    }

    #[test]
    fn a_receiver_that_hangs_keeps_nobody_waiting() {
        let outbox = Arc::new(Outbox::default());
        let (entered, is_entered) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let receiver = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || {
                outbox.receive_all(|number| {
                    entered.send(number).unwrap();
                    let _ = released.recv();
                });
            })
        };
        outbox.send(1).unwrap();
        assert_eq!(is_entered.recv(), Ok(1));
        outbox.send(2).unwrap();
        let mut queued = Vec::new();
        outbox.for_each(|number| queued.push(*number));
        assert_eq!(queued, [2]);
        outbox.close();
        outbox.wait_for_end(Instant::now());
        drop(release);
        receiver.join().unwrap();
        assert_eq!(is_entered.recv(), Ok(2));
    }
}
