//! The atomics of the protocols between threads: std's, or loom's when the protocols are checked.

#[cfg(not(tower_stall_loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering};

#[cfg(tower_stall_loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering};

/// Checks that a thread for which `is_set` also sees what another thread wrote before `set`.
#[cfg(all(test, tower_stall_loom))]
pub(crate) fn check_publishes<T: Default + Send + Sync + 'static>(
    set: fn(&T),
    is_set: fn(&T) -> bool,
) {
    loom::model(move || {
        let shared = loom::sync::Arc::new((T::default(), AtomicBool::new(false)));
        let writer = {
            let shared = loom::sync::Arc::clone(&shared);
            loom::thread::spawn(move || {
                shared.1.store(true, Ordering::Relaxed);
                set(&shared.0);
            })
        };
        if is_set(&shared.0) {
            assert!(shared.1.load(Ordering::Relaxed));
        }
        writer.join().unwrap();
    });
}
