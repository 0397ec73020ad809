//! The protocol between the rescuer, which sends probes, and the sentinel, which receives them.

use std::sync::OnceLock;
use std::thread::Thread;

use crate::sync::{AtomicU64, Ordering};

/// The numbers of probes, each a byte on a socket.
#[derive(Debug, Default)]
pub(super) struct ProbeState {
    /// The probes that the rescuer has sent.
    sent: AtomicU64,
    /// The value of `sent` when the driver called the sentinel's waker last.
    acknowledged: AtomicU64,
    /// The probes that the sentinel has read.
    received: AtomicU64,
    rescuer: OnceLock<Thread>,
}

impl ProbeState {
    // === the rescuer's side ===

    /// Sets the thread to wake when a probe is acknowledged.
    pub(super) fn set_thread(&self, rescuer: Thread) {
        let _ = self.rescuer.set(rescuer);
    }

    /// Begins a probe, which the caller then sends. Returns `false` if the last one has not been
    /// read: a byte that was acknowledged but not read proves nothing either way.
    pub(super) fn begin(&self) -> bool {
        let sent = self.sent.load(Ordering::Relaxed);
        // Acquire: pairs with the Release in `on_received`.
        let is_idle = self.received.load(Ordering::Acquire) == sent;
        if is_idle {
            // Release: pairs with the Acquire in `on_wake`.
            self.sent.store(sent + 1, Ordering::Release);
        }
        is_idle
    }

    /// Returns whether the driver has reported the last probe.
    pub(super) fn is_acknowledged(&self) -> bool {
        // Acquire: pairs with the Release in `acknowledge`.
        self.acknowledged.load(Ordering::Acquire) == self.sent.load(Ordering::Relaxed)
    }

    // === the sentinel's side ===

    /// Records that the driver called the sentinel's waker.
    pub(super) fn on_wake(&self) {
        // Acquire: pairs with the Release in `begin`.
        let sent = self.sent.load(Ordering::Acquire);
        self.acknowledge(sent);
    }

    /// Records that the sentinel has read some probes. The driver never reports a byte that was
    /// read before, so it counts as acknowledged.
    pub(super) fn on_received(&self, probes: u64) {
        let received = self.received.load(Ordering::Relaxed) + probes;
        self.acknowledge(received);
        // Release: pairs with the Acquire in `begin`.
        self.received.store(received, Ordering::Release);
    }

    fn acknowledge(&self, probes: u64) {
        // Release: pairs with the Acquire in `is_acknowledged`.
        self.acknowledged.fetch_max(probes, Ordering::Release);
        if let Some(rescuer) = self.rescuer.get() {
            rescuer.unpark();
        }
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_acknowledged_by_the_wake_that_follows_it() {
        let probe = ProbeState::default();
        probe.on_wake();
        assert!(probe.begin());
        assert!(!probe.is_acknowledged(), "the wake came before the probe");
        assert!(!probe.begin(), "the last probe is still unread");
        probe.on_wake();
        assert!(probe.is_acknowledged());
        assert!(!probe.begin(), "acknowledged, but unread");
        probe.on_received(1);
        assert!(probe.begin());
        assert!(!probe.is_acknowledged());
    }

    #[test]
    fn a_probe_that_is_read_without_a_wake_is_acknowledged() {
        let probe = ProbeState::default();
        assert!(probe.begin());
        probe.on_received(1);
        assert!(probe.is_acknowledged());
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use super::*;
    use crate::sync::AtomicBool;
    use ::loom::{sync::Arc, thread};

    /// The flag represents the socket: the driver wakes the sentinel only once the byte is there. A
    /// probe is acknowledged exactly if that has happened.
    #[test]
    fn loom_a_probe_is_acknowledged_once_the_driver_has_reported_it() {
        ::loom::model(|| {
            let state = Arc::new((ProbeState::default(), AtomicBool::new(false)));
            let driver = {
                let state = Arc::clone(&state);
                thread::spawn(move || {
                    let (probe, has_byte) = &*state;
                    let is_reported = has_byte.load(Ordering::Acquire);
                    if is_reported {
                        probe.on_wake();
                        probe.on_received(1);
                    }
                    is_reported
                })
            };
            let (probe, has_byte) = &*state;
            assert!(probe.begin());
            assert!(!probe.is_acknowledged());
            has_byte.store(true, Ordering::Release);
            let early = probe.is_acknowledged();
            let is_reported = driver.join().unwrap();
            assert!(is_reported || !early);
            assert_eq!(probe.is_acknowledged(), is_reported);
            assert_eq!(probe.begin(), is_reported);
        });
    }

    /// A spurious wake that races with the start of a probe does not lose the next one.
    #[test]
    fn loom_a_spurious_wake_leaves_the_protocol_in_step() {
        ::loom::model(|| {
            let probe = Arc::new(ProbeState::default());
            let driver = {
                let probe = Arc::clone(&probe);
                thread::spawn(move || probe.on_wake())
            };
            assert!(probe.begin());
            driver.join().unwrap();
            probe.on_received(1);
            assert!(probe.is_acknowledged());
            assert!(probe.begin());
            assert!(!probe.is_acknowledged());
        });
    }
}
