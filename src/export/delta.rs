//! The part of a series that a recorder has received, so that only the rest is handed over.

use std::time::Duration;

use metrics::Key;

use super::descriptions::METADATA;
use super::flush::Flush;
use super::sample_budget::SampleQuota;
use crate::shard::{BOUNDS_NANOS, BUCKETS, HistogramSnapshot};

/// A counter series, and the part of it that was handed over.
#[derive(Debug)]
pub(super) struct CounterDelta {
    key: Key,
    sent: u64,
    /// Whether the recorder has the series.
    is_known: bool,
}

/// A series that counts seconds, and the part of it that was handed over.
#[derive(Debug)]
pub(super) struct SecondsDelta {
    key: Key,
    sent: Duration,
    /// Whether the recorder has the series.
    is_known: bool,
}

/// A histogram series, and the part of it that was handed over.
#[derive(Debug)]
pub(super) struct HistogramDelta {
    key: Key,
    sent: HistogramSnapshot,
}

// === impl CounterDelta ===

impl CounterDelta {
    pub(super) fn new(key: Key) -> Self {
        Self { key, sent: 0, is_known: false }
    }

    /// Takes the key of another series, to which it adds from now on.
    pub(super) fn rename(&mut self, other: Self) {
        (self.key, self.is_known) = (other.key, false);
    }

    /// Hands over what was added, the first time and in a full flush even if that is zero.
    pub(super) fn send(&mut self, flush: &Flush<'_>, total: u64) {
        if self.is_known && self.sent == total && !flush.is_full {
            return;
        }
        // Registered each time: a handle that is kept is dead after the exporter's idle timeout, or
        // from the start if there was no recorder when it was created.
        let counter = flush.recorder.register_counter(&self.key, &METADATA);
        counter.increment(total - self.sent);
        (self.sent, self.is_known) = (total, true);
    }
}

// === impl SecondsDelta ===

impl SecondsDelta {
    pub(super) fn new(key: Key) -> Self {
        Self { key, sent: Duration::ZERO, is_known: false }
    }

    /// Takes the key of another series, to which it adds from now on.
    pub(super) fn rename(&mut self, other: Self) {
        (self.key, self.is_known) = (other.key, false);
    }

    /// Hands over what was added, as [`CounterDelta::send`] does.
    ///
    /// A gauge that is incremented: counters of the facade are integers, and whole seconds are too
    /// coarse for rates over a minute. Increments of several monitors add up.
    pub(super) fn send(&mut self, flush: &Flush<'_>, total: Duration) {
        if self.is_known && self.sent == total && !flush.is_full {
            return;
        }
        let added = total.saturating_sub(self.sent);
        flush.recorder.register_gauge(&self.key, &METADATA).increment(added.as_secs_f64());
        (self.sent, self.is_known) = (total, true);
    }
}

// === impl HistogramDelta ===

impl HistogramDelta {
    pub(super) fn new(key: Key) -> Self {
        Self { key, sent: HistogramSnapshot::default() }
    }

    /// Takes the key of another series, to which it adds from now on.
    pub(super) fn rename(&mut self, other: Self) {
        self.key = other.key;
    }

    /// Returns how many samples of `total` were not handed over yet.
    pub(super) fn pending(&self, total: &HistogramSnapshot) -> u64 {
        total.count() - self.sent.count()
    }

    /// Hands over as many new samples as the quota allows, each at the mean of its bucket.
    pub(super) fn send(
        &mut self,
        flush: &Flush<'_>,
        quota: SampleQuota,
        total: &HistogramSnapshot,
    ) {
        if self.pending(total) == 0 {
            return;
        }
        let (recorder, clock) = (flush.recorder, flush.clock);
        let histogram = recorder.register_histogram(&self.key, &METADATA);
        let buckets = self.sent.buckets.iter_mut().zip(&total.buckets).enumerate();
        for (bucket, (sent, total)) in buckets {
            let pending = total.count - sent.count;
            let count = quota.share(pending);
            if count == 0 {
                continue;
            }
            // The ticks of samples that were added while the bucket was read may be included
            // already; the next mean is lower then.
            let ticks = (total.ticks.wrapping_sub(sent.ticks) as i64).max(0);
            let seconds = clamp_to_bucket(bucket, clock.seconds(ticks as f64 / pending as f64));
            histogram.record_many(seconds, usize::try_from(count).unwrap_or(usize::MAX));
            let recorded = seconds / clock.seconds(1.0) * count as f64;
            sent.ticks = sent.ticks.wrapping_add(recorded.round() as u64);
            sent.count += count;
        }
    }
}

/// Keeps a mean inside its bucket, against the rounding of many samples on a bound.
fn clamp_to_bucket(bucket: usize, seconds: f64) -> f64 {
    let bound = |bucket: usize| BOUNDS_NANOS[bucket] as f64 / 1e9;
    let min = match bucket {
        0 => 0.0,
        _ => f64::from_bits(bound(bucket - 1).to_bits() + 1),
    };
    let max = if bucket < BUCKETS - 1 { bound(bucket) } else { f64::INFINITY };
    seconds.clamp(min, max)
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Clock;
    use crate::shard::BucketBounds;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    fn clock() -> Clock {
        Clock::Manual(std::sync::Arc::default())
    }

    fn take_recorded(recorder: &DebuggingRecorder) -> Vec<f64> {
        let snapshot = recorder.snapshotter().snapshot().into_vec();
        let values = snapshot.into_iter().flat_map(|(_, _, _, value)| match value {
            DebugValue::Histogram(values) => values,
            _ => Vec::new(),
        });
        values.map(f64::from).collect()
    }

    #[test]
    fn each_sample_is_handed_over_once_in_its_bucket_and_sums_agree() {
        let clock = clock();
        let bounds = BucketBounds::new(&clock);
        let recorder = DebuggingRecorder::new();
        let flush = Flush { recorder: &recorder, clock: &clock, is_full: false };
        let mut delta = HistogramDelta::new(Key::from_name("test"));
        let mut total = HistogramSnapshot::default();
        let mut all = Vec::new();
        for round in 0..3 {
            for nanos in
                [0, 1, 99_999, 100_000, 100_001, 25_000_000, 25_000_001, 10_000_000_001, round]
            {
                total.add(&bounds, nanos);
                delta.send(&flush, SampleQuota::unlimited(), &total);
            }
            all.extend(take_recorded(&recorder));
        }
        assert_eq!(all.len(), 27);
        let up_to = |bound: f64| all.iter().filter(|&&value| value <= bound).count();
        let counts = [0.0001, 0.0005, 0.025, 0.05, 10.0].map(up_to);
        assert_eq!(counts, [15, 18, 21, 24, 24]);
        let expected = total.ticks() as f64 / 1e9;
        assert!((all.iter().sum::<f64>() - expected).abs() < 1e-7, "{all:?}");
    }

    #[test]
    fn seconds_are_handed_over_once_to_the_nanosecond() {
        let recorder = DebuggingRecorder::new();
        let clock = clock();
        let flush = Flush { recorder: &recorder, clock: &clock, is_full: false };
        let mut deltas = [0, 1].map(|_| SecondsDelta::new(Key::from_name("test")));
        for millis in [0, 1, 1, 250, 61_500] {
            deltas.iter_mut().for_each(|delta| delta.send(&flush, Duration::from_millis(millis)));
        }
        let values: Vec<_> = recorder.snapshotter().snapshot().into_vec();
        let value = values.into_iter().find_map(|(_, _, _, value)| match value {
            DebugValue::Gauge(value) => Some(f64::from(value)),
            _ => None,
        });
        assert!((value.unwrap() - 2.0 * 61.5).abs() < 1e-9, "{value:?}: two monitors add up");
    }

    #[test]
    fn a_mean_stays_in_its_bucket() {
        for bucket in 0..BUCKETS {
            let value = clamp_to_bucket(bucket, 0.0);
            assert!(bucket == 0 || value > BOUNDS_NANOS[bucket - 1] as f64 / 1e9);
            let value = clamp_to_bucket(bucket, 1e9);
            assert!(bucket == BUCKETS - 1 || value == BOUNDS_NANOS[bucket] as f64 / 1e9);
        }
    }

    #[test]
    fn samples_over_the_quota_are_handed_over_later() {
        let clock = clock();
        let bounds = BucketBounds::new(&clock);
        let recorder = DebuggingRecorder::new();
        let flush = Flush { recorder: &recorder, clock: &clock, is_full: false };
        let mut delta = HistogramDelta::new(Key::from_name("test"));
        let mut total = HistogramSnapshot::default();
        (0..1_000).for_each(|nanos| total.add(&bounds, nanos));
        let mut count = 0;
        while delta.pending(&total) > 0 {
            let quota = SampleQuota::new(100, delta.pending(&total));
            delta.send(&flush, quota, &total);
            let sent = take_recorded(&recorder).len();
            assert!(sent <= 101, "{sent} at once");
            count += sent;
        }
        assert_eq!(count, 1_000);
    }
}
