//! Whether something in the process was late a moment ago, so that bytes may have waited in a
//! socket.

use std::time::Duration;

use crate::os::{self, Clock};
use crate::sync::{AtomicU64, Ordering};

/// What marks the process as late, and what reads it before it asks the kernel about a socket.
///
/// Aligned so that nothing else is written on the cache line that every read of a socket reads.
/// Times are in ticks.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Lateness {
    /// Relaxed: no other memory belongs to it. Of two marks at the same time either may remain.
    late_until: AtomicU64,
    /// [`MEMORY`](Self::MEMORY).
    memory: u64,
    /// [`MIN_DELAY`](Self::MIN_DELAY).
    min_delay: u64,
    clock: Clock,
    /// How exactly the kernel knows when the data of a socket arrived.
    resolution: Duration,
}

impl Lateness {
    /// How long after a delay its victims may still be read. Each that is found extends the time.
    const MEMORY: Duration = Duration::from_millis(100);
    /// A poll of this length has delayed others by more than the kernel's tick.
    const MIN_DELAY: Duration = Duration::from_millis(1);

    pub(crate) fn new(clock: &Clock) -> Self {
        Self {
            late_until: AtomicU64::new(0),
            memory: clock.ticks(Self::MEMORY),
            min_delay: clock.ticks(Self::MIN_DELAY),
            clock: clock.clone(),
            resolution: os::scheduler_tick(),
        }
    }

    /// Returns whether a thread that was busy for some time has delayed others noticeably. For a
    /// negative time, of clocks that differ, it has not.
    pub(crate) fn is_delay(&self, ticks: u64) -> bool {
        (self.min_delay..=i64::MAX as u64).contains(&ticks)
    }

    /// Records that a thread was busy for some time until `end`.
    pub(crate) fn record_delay(&self, ticks: u64, end: u64) {
        if self.is_delay(ticks) {
            self.mark(end);
        }
    }

    /// Records that something is late.
    pub(crate) fn mark(&self, now: u64) {
        self.late_until.store(now.saturating_add(self.memory), Ordering::Relaxed);
    }

    /// Returns for how long the bytes that were just read had waited, 0 if that is not known to be
    /// longer than the kernel's resolution. Calls `since_last_data`, which asks the kernel, only if
    /// something is or was late, or if `is_behind` says that this thread may be.
    #[inline]
    pub(crate) fn wait(
        &self,
        is_behind: impl FnOnce() -> bool,
        since_last_data: impl FnOnce() -> Option<Duration>,
    ) -> u64 {
        let now = self.clock.now();
        let is_late = now < self.late_until.load(Ordering::Relaxed);
        if is_late || is_behind() { self.known_wait(since_last_data(), now) } else { 0 }
    }

    fn known_wait(&self, since_last_data: Option<Duration>, now: u64) -> u64 {
        let Some(wait) = since_last_data.filter(|&wait| wait > self.resolution) else { return 0 };
        self.mark(now);
        self.clock.ticks(wait)
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const MILLI: u64 = 1_000_000;

    fn setup() -> (Arc<std::sync::atomic::AtomicU64>, Lateness) {
        let time = Arc::new(std::sync::atomic::AtomicU64::new(1_000 * MILLI));
        let lateness = Lateness::new(&Clock::Manual(Arc::clone(&time)));
        (time, lateness)
    }

    fn waited(millis: u64) -> Option<Duration> {
        Some(Duration::from_millis(millis))
    }

    #[test]
    fn the_kernel_is_asked_only_for_a_while_after_a_delay() {
        let (time, lateness) = setup();
        let pass =
            |millis| _ = time.fetch_add(millis * MILLI, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(lateness.wait(|| false, || unreachable!("nothing was late")), 0);
        lateness.record_delay(MILLI - 1, time.load(std::sync::atomic::Ordering::Relaxed));
        assert_eq!(lateness.wait(|| false, || unreachable!("the poll was short")), 0);
        lateness.record_delay(MILLI, time.load(std::sync::atomic::Ordering::Relaxed));
        pass(99);
        assert_eq!(lateness.wait(|| false, || waited(50)), 50 * MILLI);
        pass(99);
        assert_eq!(lateness.wait(|| false, || waited(0)), 0, "a wait extends the time");
        pass(1);
        assert_eq!(lateness.wait(|| false, || unreachable!("nothing was late for a while")), 0);
        assert_eq!(lateness.wait(|| true, || waited(50)), 50 * MILLI);
    }

    #[test]
    fn a_wait_within_the_resolution_is_none() {
        let (_, lateness) = setup();
        lateness.mark(1_000 * MILLI);
        let resolution = lateness.resolution;
        assert!(resolution <= Duration::from_millis(10));
        assert_eq!(lateness.wait(|| false, || Some(resolution)), 0);
        assert_eq!(lateness.wait(|| false, || None), 0);
        let longer = resolution + Duration::from_millis(1);
        assert_eq!(lateness.wait(|| false, || Some(longer)), longer.as_nanos() as u64);
    }
}
