//! Each thread's free list of request records.

use std::cell::RefCell;
use std::sync::Arc;

use super::record::RequestRecord;
use crate::state::MonitorState;

/// The length of a free list. A few records are enough where requests start and end in turn; a
/// burst allocates more of them.
const CAPACITY: usize = 64;

thread_local! {
    /// The free records of all monitors, most recently used last.
    #[allow(clippy::vec_box, reason = "each record is taken out and put back as a box")]
    static FREE: RefCell<Vec<Box<RequestRecord>>> = const { RefCell::new(Vec::new()) };
}

/// Returns a free record of this thread, if there is one.
#[inline(always)]
pub(super) fn take(monitor: &Arc<MonitorState>) -> Option<Box<RequestRecord>> {
    let free = FREE.try_with(|free| {
        let mut free = free.try_borrow_mut().ok()?;
        // Nearly every thread serves one monitor.
        if free.last()?.is_of(monitor) { free.pop() } else { take_last_of(&mut free, monitor) }
    });
    free.ok().flatten()
}

/// Puts a record on the free list of this thread, if there is room.
#[inline(always)]
pub(super) fn recycle(mut record: Box<RequestRecord>) {
    // Before the list is borrowed, because it may run code that uses the list.
    record.reset();
    let _ = FREE.try_with(|free| match free.try_borrow_mut() {
        Ok(mut free) if free.len() < free.capacity() => free.push(record),
        _ => {}
    });
}

/// Drops the free records of this thread. Later ones are not kept.
pub(super) fn close() {
    let _ = FREE.try_with(RefCell::take);
}

/// Drops the free records of this thread, and reserves room for later ones.
pub(super) fn reserve() {
    let _ = FREE.try_with(|free| free.replace(Vec::with_capacity(CAPACITY)));
}

#[cold]
#[allow(clippy::vec_box, reason = "each record is taken out and put back as a box")]
fn take_last_of(
    free: &mut Vec<Box<RequestRecord>>,
    monitor: &Arc<MonitorState>,
) -> Option<Box<RequestRecord>> {
    let last = free.iter().rposition(|record| record.is_of(monitor))?;
    Some(free.remove(last))
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::os::Clock;
    use crate::request::thread_local::acquire_record;
    use crate::state::tests::state;

    fn monitor() -> Arc<MonitorState> {
        state(Clock::new())
    }

    fn address(record: &RequestRecord) -> usize {
        std::ptr::from_ref(record).addr()
    }

    #[test]
    fn the_record_of_a_monitor_that_was_used_last_is_used_next() {
        let (one, other) = (monitor(), monitor());
        let records = [&one, &one, &other].map(acquire_record);
        let addresses = records.each_ref().map(|record| address(record));
        records.into_iter().for_each(recycle);
        let again = [&one, &other, &one].map(acquire_record);
        assert_eq!(
            again.each_ref().map(|record| address(record)),
            [addresses[1], addresses[2], addresses[0]]
        );
        assert!(again[1].is_of(&other));
    }

    #[test]
    fn records_of_a_thread_that_is_ending_are_not_reused() {
        struct Late(Arc<MonitorState>, Arc<AtomicBool>);
        impl Drop for Late {
            fn drop(&mut self) {
                let is_bound = acquire_record(&self.0).state().is_on_current_thread();
                self.1.store(is_bound, Ordering::Relaxed);
            }
        }
        thread_local!(static LATE: RefCell<Option<Late>> = const { RefCell::new(None) });
        let (monitor, was_bound) = (monitor(), Arc::<AtomicBool>::default());
        let late = Late(Arc::clone(&monitor), Arc::clone(&was_bound));
        let thread = std::thread::spawn(move || {
            let monitor = Arc::clone(&late.0);
            // Thread-locals are dropped in reverse: the local handles, then `LATE`, then the list.
            close();
            LATE.set(Some(late));
            recycle(acquire_record(&monitor));
        });
        thread.join().unwrap();
        assert!(was_bound.load(Ordering::Relaxed), "its shard may be another thread's by then");
    }

    #[test]
    fn the_free_list_is_bounded() {
        let monitor = monitor();
        let records: Vec<_> = (0..2 * CAPACITY).map(|_| acquire_record(&monitor)).collect();
        records.into_iter().for_each(recycle);
        assert_eq!(FREE.with_borrow(Vec::len), CAPACITY);
    }
}
