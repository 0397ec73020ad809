use crate::sync::{AtomicBool, Ordering};

/// The right to be the only writer of something. The thread that acquires the lease is the only
/// writer until it releases it.
#[derive(Debug, Default)]
pub(crate) struct Lease(AtomicBool);

impl Lease {
    /// Creates a lease that is held by the caller.
    pub(super) fn held() -> Self {
        Self(AtomicBool::new(true))
    }

    /// Returns whether the lease was free, and is now the caller's.
    pub(crate) fn try_acquire(&self) -> bool {
        // Acquire: pairs with the Release in `release`. The new writer continues from what the last
        // one wrote.
        self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    pub(crate) fn release(&self) {
        // Release: pairs with the Acquire in `try_acquire`.
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use ::loom::{sync::Arc, thread};

    use super::Lease;
    use crate::shard::histogram::add;
    use crate::sync::{AtomicU64, Ordering};

    #[test]
    fn loom_a_lease_has_one_holder_at_a_time() {
        ::loom::model(|| {
            let shared = Arc::new((Lease::held(), AtomicU64::new(0)));
            shared.0.release();
            let add_if_free = |(lease, counter): &(Lease, AtomicU64)| {
                let acquired = lease.try_acquire();
                if acquired {
                    add(counter, 1, Ordering::Relaxed);
                    lease.release();
                }
                u64::from(acquired)
            };
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || add_if_free(&shared))
            };
            let added = add_if_free(&shared) + other.join().unwrap();
            assert_eq!(shared.1.load(Ordering::Relaxed), added);
            assert!(added >= 1);
        });
    }
}
