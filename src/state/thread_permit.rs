//! Permission to use the blocking pool, which panics if it cannot start its first thread.

use crate::sync::{AtomicU8, Ordering};

const NONE: u8 = 0;
const REQUESTED: u8 = 1;
const GRANTED: u8 = 2;

/// Is requested by the probe of the blocking pool, and granted by another thread once it has found
/// that a thread can be started. Relaxed: no other memory belongs to it.
#[derive(Debug, Default)]
pub(crate) struct ThreadPermit(AtomicU8);

impl ThreadPermit {
    /// Takes the permission, or requests it.
    pub(crate) fn take(&self) -> bool {
        let is_granted = self.0.load(Ordering::Relaxed) == GRANTED;
        self.0.store(if is_granted { NONE } else { REQUESTED }, Ordering::Relaxed);
        is_granted
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed) == REQUESTED
    }

    pub(crate) fn grant(&self) {
        self.0.store(GRANTED, Ordering::Relaxed);
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permission_is_requested_granted_and_taken_once() {
        let permit = ThreadPermit::default();
        assert!(!permit.is_requested());
        assert!(!permit.take());
        assert!(permit.is_requested());
        permit.grant();
        assert!(!permit.is_requested());
        assert!(permit.take());
        assert!(!permit.take());
    }
}
