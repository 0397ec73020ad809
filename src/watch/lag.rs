//! How late the runtime runs what is ready, told by one small task inside it.
//!
//! Nothing is injected from outside: that would wake a worker that then takes the I/O driver over, and so cure the very
//! starvation that `timer` lag is to show.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::cells::{Bounds, Histogram, Samples};
use crate::clock::Clock;
use crate::sync::{AtomicBool, Ordering};
use crate::wake::Wakes;

/// The pause between two probes of timers and queues. tokio's timer wheel wakes twice for one of more than 64 ms, so that eight probes
/// a second are sixteen wake-ups.
const PERIOD: Duration = Duration::from_millis(125);
/// Probes of the blocking pool are this many times rarer: a thread may be started for each.
const PER_BLOCKING_PROBE: u32 = 40;
/// A stall fills in no more probes than this: a quarter of an hour's.
const MOST_FILLED_IN: u64 = 7_200;

/// The lag of one runtime. Each histogram has one writer: the probing task, or the one blocking task it waits for.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    timer: Histogram,
    queue: Histogram,
    blocking_pool: Histogram,
    blocking_probe_is_out: AtomicBool,
}

/// What [`Lag`] held when it was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct LagTotals {
    pub(crate) timer: Samples,
    pub(crate) queue: Samples,
    pub(crate) blocking_pool: Samples,
}

/// A sleep that tells when its timer fired and when it was polled after that.
struct StampedSleep<'a, S> {
    clock: &'a Clock,
    sleep: Pin<&'a mut S>,
    wakes: Wakes,
}

/// Probes until it is aborted, or until the runtime's clock turns out to be a test's paused one.
/// Calls `each_round` with the number of the round.
pub(crate) async fn probe(lag: Arc<Lag>, clock: Clock, bounds: Bounds, each_round: impl Fn(u32)) {
    let period = clock.ticks(PERIOD);
    for round in 0_u32.. {
        let armed = clock.now();
        let sleep = pin!(tokio::time::sleep(PERIOD));
        let (woken, polled) = StampedSleep { clock: &clock, sleep, wakes: Wakes::new(clock.clone()) }.await;
        if polled.saturating_sub(armed) < period / 2 {
            return;
        }
        fill_in(&lag.timer, &bounds, woken.saturating_sub(armed + period), period);
        fill_in(&lag.queue, &bounds, polled.saturating_sub(woken), period);
        if round % PER_BLOCKING_PROBE == 0 {
            probe_blocking_pool(&lag, &clock, &bounds);
        }
        each_round(round);
    }
}

fn probe_blocking_pool(lag: &Arc<Lag>, clock: &Clock, bounds: &Bounds) {
    // One at a time: a probe that waits is sample enough, and fills in for those that would have waited behind it.
    if lag.blocking_probe_is_out.swap(true, Ordering::AcqRel) {
        return;
    }
    let (lag, clock, bounds) = (Arc::clone(lag), clock.clone(), bounds.clone());
    let sent = clock.now();
    let _detached = tokio::task::spawn_blocking(move || {
        let period = clock.ticks(PERIOD * PER_BLOCKING_PROBE);
        fill_in(&lag.blocking_pool, &bounds, clock.now().saturating_sub(sent), period);
        lag.blocking_probe_is_out.store(false, Ordering::Release);
    });
}

/// Adds a delay, and those that the probes it kept from starting would have seen.
fn fill_in(histogram: &Histogram, bounds: &Bounds, delay: u64, period: u64) {
    let missed = delay.checked_div(period).unwrap_or(0).min(MOST_FILLED_IN);
    for probe in 0..=missed {
        histogram.add(bounds, delay - probe * period);
    }
}

// === impl Lag ===

impl Lag {
    pub(crate) fn totals(&self) -> LagTotals {
        let mut totals = LagTotals::default();
        self.timer.read_into(&mut totals.timer);
        self.queue.read_into(&mut totals.queue);
        self.blocking_pool.read_into(&mut totals.blocking_pool);
        totals
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
        let waker = this.wakes.lend(cx.waker(), |first| woken = first);
        this.sleep.as_mut().poll(&mut Context::from_waker(waker)).map(|()| (woken, polled))
    }
}

#[cfg(all(test, not(tower_stall_loom)))]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_long_delay_is_as_many_samples_as_probes_it_kept_away() {
        let bounds = Bounds::new(&Clock::Manual(Arc::default()));
        let histogram = Histogram::default();
        let millis = 1_000_000;
        fill_in(&histogram, &bounds, 10_000 * millis, 100 * millis);
        let mut samples = Samples::default();
        histogram.read_into(&mut samples);
        // 10 s, 9.9 s, … 0.1 s, and the one that found no delay.
        assert_eq!(samples.count(), 101);
        assert_eq!(samples.ticks(), (0..=100).map(|tenth| tenth * 100 * millis).sum::<u64>());
    }

    #[test]
    fn an_absurd_delay_ends() {
        let bounds = Bounds::new(&Clock::Manual(Arc::default()));
        let histogram = Histogram::default();
        fill_in(&histogram, &bounds, u64::MAX, 1);
        let mut samples = Samples::default();
        histogram.read_into(&mut samples);
        assert_eq!(samples.count(), MOST_FILLED_IN + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_ends_the_probe() {
        let clock = Clock::new();
        let bounds = Bounds::new(&clock);
        let lag = Arc::new(Lag::default());
        probe(Arc::clone(&lag), clock, bounds, |_| ()).await;
        assert_eq!(lag.totals().timer.count(), 0);
    }

    #[tokio::test]
    async fn a_blocked_runtime_shows_as_timer_lag() {
        let clock = Clock::Os(Instant::now());
        let bounds = Bounds::new(&clock);
        let lag = Arc::new(Lag::default());
        let probing = tokio::spawn(probe(Arc::clone(&lag), clock, bounds, |_| ()));
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(650));
        while lag.totals().timer.count() == 0 {
            tokio::task::yield_now().await;
        }
        probing.abort();
        let timer = lag.totals().timer;
        assert!(timer.count() >= 5, "{timer:?}");
        assert!(timer.ticks() >= 500_000_000, "{timer:?}");
    }
}
