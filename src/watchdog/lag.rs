//! How late the runtime runs what is ready, measured by a small task inside it.
//!
//! Nothing is spawned from outside: that would wake a worker, which would take over the I/O driver
//! and so resolve the very starvation that `timer` lag is to show.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::blocking_pool::{BlockingPoolDelay, BlockingPoolProbe};
use crate::os::Clock;
use crate::request::StampedWaker;
use crate::shard::{BucketBounds, Histogram, HistogramSnapshot};
use crate::state::MonitorState;

/// The time between two probes.
const PERIOD: Duration = Duration::from_millis(125);
/// The same while the watchdog is idle. Tokio's timer wheel wakes twice for each.
const IDLE_PERIOD: Duration = Duration::from_secs(1);
/// The most samples that one delay adds: those of a quarter of an hour.
const MAX_MISSED: u64 = 7_200;

/// The lag of one runtime. Each histogram has one writer: the probing task.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    timer: Histogram,
    queue: Histogram,
    blocking_pool: Arc<BlockingPoolDelay>,
}

/// The contents of a [`Lag`] at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct LagSnapshot {
    pub(crate) timer: HistogramSnapshot,
    pub(crate) queue: HistogramSnapshot,
    pub(crate) blocking_pool: HistogramSnapshot,
}

/// A sleep that returns when its timer fired, and when it was polled after that.
struct StampedSleep<'a, S> {
    clock: &'a Clock,
    sleep: Pin<&'a mut S>,
    waker: StampedWaker,
}

/// Probes the current runtime until it is aborted, or until the runtime's clock turns out to be
/// paused by a test. `is_idle` returns whether the watchdog is idle. Calls `each_round` with the
/// number of the round and whether the watchdog is idle.
pub(crate) async fn probe(
    lag: Arc<Lag>,
    clock: Clock,
    bounds: BucketBounds,
    is_idle: impl Fn() -> bool,
    each_round: impl Fn(u32, bool),
) {
    let mut blocking_pool = BlockingPoolProbe::default();
    for round in 0_u32.. {
        let is_idle = is_idle();
        each_round(round, is_idle);
        let pause = if is_idle { IDLE_PERIOD } else { PERIOD };
        let (period, armed) = (clock.ticks(pause), clock.now());
        let sleep = pin!(tokio::time::sleep(pause));
        let waker = StampedWaker::new(clock.clone());
        let (woken, polled) = StampedSleep { clock: &clock, sleep, waker }.await;
        if polled < armed {
            // The clock has jumped back.
            continue;
        }
        if polled - armed < period / 2 {
            return;
        }
        let timer_lag = woken.saturating_sub(armed + period);
        correct_coordinated_omission(&lag.timer, &bounds, timer_lag, period);
        correct_coordinated_omission(&lag.queue, &bounds, polled.saturating_sub(woken), period);
        blocking_pool.run_once(&lag.blocking_pool, &clock, &bounds);
    }
}

/// Adds a delay, and those that the probes which could not start meanwhile would have measured
/// (HdrHistogram's correction for coordinated omission).
fn correct_coordinated_omission(
    histogram: &Histogram,
    bounds: &BucketBounds,
    delay: u64,
    period: u64,
) {
    let missed = delay.checked_div(period).unwrap_or(0).min(MAX_MISSED);
    for probe in 0..=missed {
        histogram.add(bounds, delay - probe * period);
    }
}

// === impl Lag ===

impl Lag {
    pub(crate) fn new(monitor: &MonitorState) -> Self {
        let blocking_pool = BlockingPoolDelay::new(
            Arc::clone(&monitor.blocking_pool_wait),
            Arc::clone(&monitor.blocking_pool_permit),
        );
        Self { blocking_pool: Arc::new(blocking_pool), ..Self::default() }
    }

    pub(crate) fn snapshot(&self) -> LagSnapshot {
        let mut snapshot = LagSnapshot::default();
        self.timer.read_into(&mut snapshot.timer);
        self.queue.read_into(&mut snapshot.queue);
        self.blocking_pool.histogram().read_into(&mut snapshot.blocking_pool);
        snapshot
    }
}

// === impl StampedSleep ===

impl<S: Future<Output = ()>> Future for StampedSleep<'_, S> {
    /// When the timer fired, and when it was polled after that, in ticks.
    type Output = (u64, u64);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let polled = this.clock.now();
        let mut woken = polled;
        let waker = this.waker.for_poll(cx.waker(), |woken_at| woken = woken_at);
        this.sleep.as_mut().poll(&mut Context::from_waker(waker)).map(|()| (woken, polled))
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const MILLI: u64 = 1_000_000;

    fn corrected(delay: u64, period: u64) -> HistogramSnapshot {
        let bounds = BucketBounds::new(&Clock::Manual(Arc::default()));
        let histogram = Histogram::default();
        correct_coordinated_omission(&histogram, &bounds, delay, period);
        let mut snapshot = HistogramSnapshot::default();
        histogram.read_into(&mut snapshot);
        snapshot
    }

    #[test]
    fn a_long_delay_counts_for_the_probes_that_it_prevented() {
        let snapshot = corrected(10_000 * MILLI, 100 * MILLI);
        // 10 s, 9.9 s, … 0.1 s, and the probe that was not delayed.
        assert_eq!(snapshot.count(), 101);
        assert_eq!(snapshot.ticks(), (0..=100).map(|tenth| tenth * 100 * MILLI).sum::<u64>());
    }

    #[test]
    fn the_samples_of_one_delay_are_bounded() {
        assert_eq!(corrected(u64::MAX, 1).count(), MAX_MISSED + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_ends_the_probe() {
        let clock = Clock::new();
        let bounds = BucketBounds::new(&clock);
        let lag = Arc::new(Lag::default());
        probe(Arc::clone(&lag), clock, bounds, || false, |_, _| ()).await;
        assert_eq!(lag.snapshot().timer.count(), 0);
    }

    #[tokio::test]
    async fn a_blocked_runtime_shows_as_timer_lag() {
        let clock = Clock::Os(Instant::now());
        let bounds = BucketBounds::new(&clock);
        let lag = Arc::new(Lag::default());
        let probing = tokio::spawn(probe(Arc::clone(&lag), clock, bounds, || false, |_, _| ()));
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(650));
        while lag.snapshot().timer.count() == 0 {
            tokio::task::yield_now().await;
        }
        probing.abort();
        let timer = lag.snapshot().timer;
        assert!(timer.count() >= 5, "{timer:?}");
        assert!(timer.ticks() >= 500 * MILLI, "{timer:?}");
    }
}
