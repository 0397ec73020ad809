//! What a recorder has been given already, so that only the rest is handed over.

use metrics::{Key, Recorder};

use super::catalogue::METADATA;
use super::pace::Pace;
use crate::cells::{BOUNDS_NANOS, BUCKETS, Samples};
use crate::clock::Clock;

/// A counter's series and what was handed over of it.
#[derive(Debug)]
pub(super) struct SentCount {
    key: Key,
    sent: u64,
}

/// A histogram's series and what was handed over of it.
#[derive(Debug)]
pub(super) struct SentSamples {
    key: Key,
    sent: Samples,
}

// === impl SentCount ===

impl SentCount {
    pub(super) fn new(key: Key) -> Self {
        Self { key, sent: 0 }
    }

    /// Hands over what was added, be it nothing: a late recorder then has the series too.
    pub(super) fn send(&mut self, recorder: &dyn Recorder, total: u64) {
        // Resolved anew each time: a handle that is kept is dead after the exporter's idle timeout, or from the start if no
        // recorder was there when it was made.
        recorder.register_counter(&self.key, &METADATA).increment(total - self.sent);
        self.sent = total;
    }
}

// === impl SentSamples ===

impl SentSamples {
    pub(super) fn new(key: Key) -> Self {
        Self { key, sent: Samples::default() }
    }

    /// How many samples of `total` were not handed over yet.
    pub(super) fn pending(&self, total: &Samples) -> u64 {
        total.count() - self.sent.count()
    }

    /// Hands over as many new samples as the pace allows, each at the mean of its bucket.
    pub(super) fn send(&mut self, recorder: &dyn Recorder, clock: &Clock, pace: &mut Pace, total: &Samples) {
        if self.pending(total) == 0 {
            return;
        }
        let histogram = recorder.register_histogram(&self.key, &METADATA);
        for (bucket, (sent, total)) in self.sent.buckets.iter_mut().zip(&total.buckets).enumerate() {
            let pending = total.count - sent.count;
            let now = pace.share(pending);
            if now == 0 {
                continue;
            }
            // Ticks of samples that were added while this was read may be in already; then the next mean is lower.
            let ticks = (total.ticks.wrapping_sub(sent.ticks) as i64).max(0);
            let seconds = within(bucket, clock.seconds(ticks as f64 / pending as f64));
            histogram.record_many(seconds, usize::try_from(now).unwrap_or(usize::MAX));
            let recorded = seconds / clock.seconds(1.0) * now as f64;
            sent.ticks = sent.ticks.wrapping_add(recorded.round() as u64);
            sent.count += now;
        }
    }
}

/// Keeps a mean inside its bucket, against the rounding of many samples on a bound.
fn within(bucket: usize, seconds: f64) -> f64 {
    let bound = |bucket: usize| BOUNDS_NANOS[bucket] as f64 / 1e9;
    let above = match bucket {
        0 => 0.0,
        _ => f64::from_bits(bound(bucket - 1).to_bits() + 1),
    };
    let upto = if bucket < BUCKETS - 1 { bound(bucket) } else { f64::INFINITY };
    seconds.clamp(above, upto)
}

#[cfg(all(test, not(tower_stall_loom)))]
mod tests {
    use super::*;
    use crate::cells::Bounds;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    fn recorded(recorder: &DebuggingRecorder) -> Vec<f64> {
        let snapshot = recorder.snapshotter().snapshot().into_vec();
        let values = snapshot.into_iter().flat_map(|(_, _, _, value)| match value {
            DebugValue::Histogram(values) => values,
            _ => Vec::new(),
        });
        values.map(f64::from).collect()
    }

    #[test]
    fn each_sample_goes_over_once_in_its_bucket_and_sums_agree() {
        let clock = Clock::Manual(std::sync::Arc::default());
        let bounds = Bounds::new(&clock);
        let recorder = DebuggingRecorder::new();
        let mut sent = SentSamples::new(Key::from_name("test"));
        let mut total = Samples::default();
        let mut all = Vec::new();
        for round in 0..3 {
            for nanos in [0, 1, 99_999, 100_000, 100_001, 25_000_000, 25_000_001, 10_000_000_001, round] {
                total.add(&bounds, nanos);
                sent.send(&recorder, &clock, &mut Pace::unlimited(), &total);
            }
            all.extend(recorded(&recorder));
        }
        assert_eq!(all.len(), 27);
        let below = |bound: f64| all.iter().filter(|&&value| value <= bound).count();
        assert_eq!((below(0.0001), below(0.0005), below(0.025), below(0.05), below(10.0)), (15, 18, 21, 24, 24));
        let expected = total.ticks() as f64 / 1e9;
        assert!((all.iter().sum::<f64>() - expected).abs() < 1e-7, "{all:?}");
    }

    #[test]
    fn a_mean_never_leaves_its_bucket() {
        for bucket in 0..BUCKETS {
            let value = within(bucket, 0.0);
            assert!(bucket == 0 || value > BOUNDS_NANOS[bucket - 1] as f64 / 1e9);
            let value = within(bucket, 1e9);
            assert!(bucket == BUCKETS - 1 || value == BOUNDS_NANOS[bucket] as f64 / 1e9);
        }
    }

    #[test]
    fn what_the_pace_holds_back_comes_later() {
        let clock = Clock::Manual(std::sync::Arc::default());
        let bounds = Bounds::new(&clock);
        let recorder = DebuggingRecorder::new();
        let mut sent = SentSamples::new(Key::from_name("test"));
        let mut total = Samples::default();
        (0..1_000).for_each(|nanos| total.add(&bounds, nanos));
        let mut count = 0;
        while sent.pending(&total) > 0 {
            sent.send(&recorder, &clock, &mut Pace::of(100, sent.pending(&total)), &total);
            let now = recorded(&recorder).len();
            assert!(now <= 101, "{now} at once");
            count += now;
        }
        assert_eq!(count, 1_000);
    }
}
