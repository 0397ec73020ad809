//! How far the watchdog has scanned.

use crate::sync::{AtomicU64, Ordering};

/// When the watchdog began its latest complete scan, in ticks.
#[derive(Debug)]
pub(crate) struct ScanProgress(AtomicU64);

impl ScanProgress {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Records that the watchdog has scanned everything as it was at a moment, or later.
    pub(crate) fn set(&self, at: u64) {
        // Release: pairs with the Acquire in `get`. A reader that sees the moment sees what the
        // watchdog recorded and sent before.
        self.0.store(at, Ordering::Release);
    }

    pub(crate) fn get(&self) -> u64 {
        // Acquire: pairs with the Release in `set`.
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use super::*;
    use ::loom::{sync::Arc, thread};

    /// A reporter that sees a scan sees everything that the watchdog recorded in it.
    #[test]
    fn loom_a_scan_publishes_what_it_recorded() {
        ::loom::model(|| {
            let shared = Arc::new((ScanProgress::new(), AtomicU64::new(0)));
            let watchdog = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    for at in 1..=2 {
                        shared.1.store(at, Ordering::Relaxed);
                        shared.0.set(at);
                    }
                })
            };
            let scanned = shared.0.get();
            assert!(shared.1.load(Ordering::Relaxed) >= scanned);
            watchdog.join().unwrap();
        });
    }
}
