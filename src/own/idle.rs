//! Records that a thread has used and will use again.

use std::cell::RefCell;
use std::sync::Arc;

use super::{Own, Record};
use crate::shared::Shared;

/// Where requests end in turn with others that begin, a few are enough; in a burst more of them are made.
const MOST: usize = 64;

thread_local! {
    /// Of all monitors, the one that was used last at the end.
    #[allow(clippy::vec_box, reason = "each is taken out and put back as the box that it is")]
    static IDLE: RefCell<Vec<Box<Record>>> = const { RefCell::new(Vec::new()) };
}

/// A record of this thread, one that it has used before if there is any.
#[inline(always)]
pub(crate) fn record(shared: &Arc<Shared>) -> Box<Record> {
    let idle = IDLE.try_with(|idle| {
        let mut idle = idle.try_borrow_mut().ok()?;
        // Nearly every thread serves one monitor.
        if idle.last()?.is_of(shared) { idle.pop() } else { of_another(&mut idle, shared) }
    });
    idle.ok().flatten().unwrap_or_else(|| Record::new(Own::of(shared)))
}

/// Keeps a record for the next request on this thread, if there is room.
#[inline(always)]
pub(crate) fn keep(mut record: Box<Record>) {
    // First, as it may run code of others, which may come by here.
    record.wakes.reset();
    let _ = IDLE.try_with(|idle| match idle.try_borrow_mut() {
        Ok(mut idle) if idle.len() < idle.capacity() => idle.push(record),
        _ => {}
    });
}

/// Lets go of all of them, and keeps no more.
pub(super) fn clear() {
    let _ = IDLE.try_with(RefCell::take);
}

/// Lets go of all of them, and makes room for those of one monitor more.
pub(super) fn renew() {
    let _ = IDLE.try_with(|idle| idle.replace(Vec::with_capacity(MOST)));
}

#[cold]
#[allow(clippy::vec_box, reason = "as above")]
fn of_another(idle: &mut Vec<Box<Record>>, shared: &Arc<Shared>) -> Option<Box<Record>> {
    let last = idle.iter().rposition(|record| record.is_of(shared))?;
    Some(idle.remove(last))
}

#[cfg(all(test, not(tower_stall_loom)))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::own::is_here;
    use crate::own::tests::shared;

    fn address(record: &Record) -> usize {
        std::ptr::from_ref(record).addr()
    }

    #[test]
    fn what_was_used_last_is_used_next_each_for_its_own_monitor() {
        let (one, other) = (shared(), shared());
        let records = [&one, &one, &other].map(record);
        let addresses = records.each_ref().map(|record| address(record));
        records.into_iter().for_each(keep);
        let again = [&one, &other, &one].map(record);
        assert_eq!(again.each_ref().map(|record| address(record)), [addresses[1], addresses[2], addresses[0]]);
        assert!(again[1].is_of(&other));
    }

    #[test]
    fn of_a_thread_that_ends_none_is_used_again() {
        struct Late(Arc<Shared>, Arc<AtomicBool>);
        impl Drop for Late {
            fn drop(&mut self) {
                self.1.store(is_here(&record(&self.0).account.lane), Ordering::Relaxed);
            }
        }
        thread_local!(static LATE: RefCell<Option<Late>> = const { RefCell::new(None) });
        let (shared, was_here) = (shared(), Arc::<AtomicBool>::default());
        let late = Late(Arc::clone(&shared), Arc::clone(&was_here));
        let thread = std::thread::spawn(move || {
            let shared = Arc::clone(&late.0);
            // Dropped last first: the thread's own ends, then what is late, then idle records.
            clear();
            LATE.set(Some(late));
            keep(record(&shared));
        });
        thread.join().unwrap();
        assert!(was_here.load(Ordering::Relaxed), "its lane may be another thread's by then");
    }

    #[test]
    fn a_thread_keeps_no_more_than_a_few() {
        let shared = shared();
        let records: Vec<_> = (0..2 * MOST).map(|_| record(&shared)).collect();
        records.into_iter().for_each(keep);
        assert_eq!(IDLE.with_borrow(Vec::len), MOST);
    }
}
