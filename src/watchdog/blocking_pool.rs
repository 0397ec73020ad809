//! How long `spawn_blocking` takes to start a closure.
//!
//! A probe waits in the very queue that it measures. So while it waits, its age is the measurement:
//! a pool that is full for ever would otherwise never show.
//!
//! `spawn_blocking` panics if the pool has no thread, and none can be started. So a probe is sent
//! only if the thread of the last one is still there, which tokio keeps for 10 s by default, or after
//! another thread could be started on trial. What remains is the chance that the last free thread
//! of the process is taken in between.

use std::sync::Arc;
use std::time::Duration;

use crate::os::{self, Clock, Tid};
use crate::shard::{BucketBounds, Histogram};
use crate::state::{BlockingPoolWait, ThreadPermit};
use crate::sync::{AtomicU64, Ordering};

/// The time between two probes, each of which may start a thread.
const PERIOD: Duration = Duration::from_secs(5);
/// A waiting probe adds a sample, its age, this often.
const WAITING_PERIOD: Duration = Duration::from_secs(1);

/// The delays that were measured. Written by the probing task, except where a field says otherwise.
#[derive(Debug, Default)]
pub(super) struct BlockingPoolDelay {
    histogram: Histogram,
    /// When the closure of the last probe was started, in ticks; 0 if it waits. Written by the
    /// closure. Relaxed: no other memory belongs to it.
    started_at: AtomicU64,
    /// The kernel's id of the thread that ran the last closure; 0 before the first. Written by the
    /// closure.
    thread: AtomicU64,
    wait: Arc<BlockingPoolWait>,
    permit: Arc<ThreadPermit>,
}

/// The probing task's side.
#[derive(Debug, Default)]
pub(super) struct BlockingPoolProbe {
    /// When the last probe was sent, in ticks; 0 before the first.
    sent_at: u64,
    is_waiting: bool,
    /// The samples that were added while it waits.
    samples: u64,
}

// === impl BlockingPoolDelay ===

impl BlockingPoolDelay {
    /// Creates the delays of a monitor, to which it reports the wait of the probe, and which permits
    /// the probes.
    pub(super) fn new(wait: Arc<BlockingPoolWait>, permit: Arc<ThreadPermit>) -> Self {
        Self { wait, permit, ..Self::default() }
    }

    /// Returns whether `spawn_blocking` needs no new thread, or can start one.
    fn has_thread(&self) -> bool {
        let thread = self.thread.load(Ordering::Relaxed);
        let is_alive = thread != 0 && os::thread_state(Tid(thread)).is_some();
        is_alive || self.permit.take()
    }

    pub(super) fn histogram(&self) -> &Histogram {
        &self.histogram
    }
}

// === impl BlockingPoolProbe ===

impl BlockingPoolProbe {
    /// Sends a probe if one is due, or adds what the last one has shown.
    pub(super) fn run_once(
        &mut self,
        delay: &Arc<BlockingPoolDelay>,
        clock: &Clock,
        bounds: &BucketBounds,
    ) {
        if self.is_waiting {
            self.measure(delay, clock, bounds);
            return;
        }
        let is_due =
            self.sent_at == 0 || clock.now().saturating_sub(self.sent_at) >= clock.ticks(PERIOD);
        if is_due && delay.has_thread() {
            self.send(delay, clock);
        }
    }

    fn send(&mut self, delay: &Arc<BlockingPoolDelay>, clock: &Clock) {
        *self = Self { sent_at: clock.now(), is_waiting: true, samples: 0 };
        delay.started_at.store(0, Ordering::Relaxed);
        delay.wait.begin(self.sent_at);
        let (delay, clock) = (Arc::clone(delay), clock.clone());
        let _detached = tokio::task::spawn_blocking(move || {
            delay.started_at.store(clock.now(), Ordering::Relaxed);
            delay.thread.store(Tid::current().0, Ordering::Relaxed);
            delay.wait.end();
        });
    }

    /// Adds the delay of a probe whose closure was started, or the age of one that waits.
    fn measure(&mut self, delay: &BlockingPoolDelay, clock: &Clock, bounds: &BucketBounds) {
        let started_at = delay.started_at.load(Ordering::Relaxed);
        self.is_waiting = started_at == 0;
        let until = if self.is_waiting { clock.now() } else { started_at };
        let age = until.saturating_sub(self.sent_at);
        let period = clock.ticks(WAITING_PERIOD).max(1);
        while self.samples < age / period {
            self.samples += 1;
            delay.histogram.add(bounds, self.samples * period);
        }
        if !self.is_waiting {
            delay.histogram.add(bounds, age);
        }
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::HistogramSnapshot;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_probe_that_waits_adds_its_age_each_second() {
        let time = Arc::new(std::sync::atomic::AtomicU64::new(SECOND));
        let clock = Clock::Manual(Arc::clone(&time));
        let bounds = BucketBounds::new(&clock);
        let delay = BlockingPoolDelay::default();
        let mut probe = BlockingPoolProbe { sent_at: SECOND, is_waiting: true, samples: 0 };
        let mut measure_at = |now, started_at| {
            time.store(now, std::sync::atomic::Ordering::Relaxed);
            delay.started_at.store(started_at, Ordering::Relaxed);
            probe.measure(&delay, &clock, &bounds);
            let mut snapshot = HistogramSnapshot::default();
            delay.histogram.read_into(&mut snapshot);
            (snapshot.count(), snapshot.ticks() / SECOND, probe.is_waiting)
        };
        assert_eq!(measure_at(SECOND + SECOND / 2, 0), (0, 0, true));
        assert_eq!(measure_at(2 * SECOND, 0), (1, 1, true));
        assert_eq!(measure_at(4 * SECOND + 1, 0), (3, 1 + 2 + 3, true));
        assert_eq!(measure_at(9 * SECOND, 5 * SECOND), (5, 1 + 2 + 3 + 4 + 4, false));
    }

    #[tokio::test]
    async fn a_probe_that_is_answered_is_one_sample() {
        let clock = Clock::Os(std::time::Instant::now());
        let mut probe = BlockingPoolProbe::default();
        let delay = Arc::<BlockingPoolDelay>::default();
        let bounds = BucketBounds::new(&clock);
        probe.run_once(&delay, &clock, &bounds);
        assert!(!probe.is_waiting && delay.permit.is_requested(), "no thread is known");
        delay.permit.grant();
        probe.run_once(&delay, &clock, &bounds);
        assert!(probe.is_waiting);
        while delay.started_at.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        probe.run_once(&delay, &clock, &bounds);
        assert!(!probe.is_waiting);
        let mut snapshot = HistogramSnapshot::default();
        delay.histogram.read_into(&mut snapshot);
        assert_eq!(snapshot.count(), 1);
        probe.run_once(&delay, &clock, &bounds);
        assert!(!probe.is_waiting, "the next one is not due yet");
    }
}
