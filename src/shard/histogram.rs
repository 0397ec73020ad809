//! Fixed-bucket histograms with one writer, and the plain numbers that a reader takes from them.

use std::time::Duration;

use crate::os::Clock;
use crate::sync::{AtomicU64, Ordering};

/// The upper bounds of all buckets but the last, in nanoseconds: 0.1 ms to 10 s.
pub(crate) const BOUNDS_NANOS: [u64; 13] = [
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// The number of buckets, including the one without an upper bound.
pub(crate) const BUCKETS: usize = BOUNDS_NANOS.len() + 1;

/// The bucket bounds in the ticks of one clock.
#[derive(Clone, Debug)]
pub(crate) struct BucketBounds([u64; BOUNDS_NANOS.len()]);

/// `N` histograms that one thread at a time adds to and that any thread reads.
///
/// The first buckets of all of them are adjacent: nearly all samples are short, so a poll writes to
/// few cache lines.
#[derive(Debug)]
pub(crate) struct Histograms<const N: usize> {
    buckets: [[Bucket; N]; BUCKETS],
}

/// A single histogram.
#[derive(Debug, Default)]
pub(crate) struct Histogram(Histograms<1>);

#[derive(Debug, Default)]
struct Bucket {
    count: AtomicU64,
    sum: AtomicU64,
}

/// The contents of a [`Histogram`] at one moment, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HistogramSnapshot {
    pub(crate) buckets: [BucketTotal; BUCKETS],
}

/// The number of samples in one bucket, and their sum in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BucketTotal {
    pub(crate) count: u64,
    pub(crate) ticks: u64,
}

// === impl BucketBounds ===

impl BucketBounds {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self(BOUNDS_NANOS.map(|nanos| clock.ticks(Duration::from_nanos(nanos))))
    }

    /// Returns the upper bound of the first bucket.
    #[inline]
    pub(crate) fn first(&self) -> u64 {
        self.0[0]
    }

    /// Returns the bucket of a sample. Upper bounds are inclusive, like Prometheus' `le`.
    pub(crate) fn bucket(&self, ticks: u64) -> usize {
        self.0.iter().position(|&bound| ticks <= bound).unwrap_or(BUCKETS - 1)
    }
}

// === impl Histograms ===

impl<const N: usize> Histograms<N> {
    /// Adds a sample to one of the histograms. Must only be called by their owner.
    #[inline]
    pub(crate) fn add(&self, index: usize, bounds: &BucketBounds, ticks: u64) {
        if ticks <= bounds.first() {
            self.add_to_first(index, ticks);
        } else {
            self.add_long(index, bounds, ticks);
        }
    }

    #[cold]
    fn add_long(&self, index: usize, bounds: &BucketBounds, ticks: u64) {
        self.buckets[bounds.bucket(ticks)][index].add(ticks);
    }

    /// Adds a sample that belongs to the first bucket. Must only be called by the owner.
    #[inline]
    pub(crate) fn add_to_first(&self, index: usize, ticks: u64) {
        self.buckets[0][index].add(ticks);
    }

    /// Returns the number of samples in the first bucket of one of the histograms.
    pub(crate) fn count_in_first(&self, index: usize) -> u64 {
        // Acquire: pairs with the Release in `Bucket::add`.
        self.buckets[0][index].count.load(Ordering::Acquire)
    }

    /// Adds the contents of one of the histograms to `snapshot`.
    pub(crate) fn read_into(&self, index: usize, snapshot: &mut HistogramSnapshot) {
        for (buckets, total) in self.buckets.iter().zip(&mut snapshot.buckets) {
            buckets[index].read_into(total);
        }
    }
}

impl<const N: usize> Default for Histograms<N> {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| std::array::from_fn(|_| Bucket::default())) }
    }
}

// === impl Histogram ===

impl Histogram {
    /// Adds a sample. Must only be called by the owner of the histogram.
    pub(crate) fn add(&self, bounds: &BucketBounds, ticks: u64) {
        self.0.add(0, bounds, ticks);
    }

    /// Adds the contents of the histogram to `snapshot`.
    pub(crate) fn read_into(&self, snapshot: &mut HistogramSnapshot) {
        self.0.read_into(0, snapshot);
    }
}

// === impl Bucket ===

impl Bucket {
    #[inline]
    fn add(&self, ticks: u64) {
        add(&self.sum, ticks, Ordering::Relaxed);
        // Release: pairs with the Acquire in `read_into`. A reader that sees the count sees the
        // ticks of every sample that it counts.
        add(&self.count, 1, Ordering::Release);
    }

    fn read_into(&self, total: &mut BucketTotal) {
        // Acquire: pairs with the Release in `add`.
        total.count += self.count.load(Ordering::Acquire);
        total.ticks = total.ticks.wrapping_add(self.sum.load(Ordering::Relaxed));
    }
}

/// Adds to a counter that only this thread writes: a load and a store, no locked instruction.
#[inline]
pub(crate) fn add(counter: &AtomicU64, by: u64, order: Ordering) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), order);
}

// === impl HistogramSnapshot ===

impl HistogramSnapshot {
    pub(crate) fn add(&mut self, bounds: &BucketBounds, ticks: u64) {
        let total = &mut self.buckets[bounds.bucket(ticks)];
        total.count += 1;
        total.ticks += ticks;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (total, other) in self.buckets.iter_mut().zip(&other.buckets) {
            total.count += other.count;
            total.ticks = total.ticks.wrapping_add(other.ticks);
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().map(|total| total.count).sum()
    }

    pub(crate) fn ticks(&self) -> u64 {
        self.buckets.iter().map(|total| total.ticks).fold(0, u64::wrapping_add)
    }

    /// Returns the bucket that contains a quantile of the samples; `None` without samples.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<usize> {
        let count = self.count();
        let rank = ((count as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        self.buckets.iter().position(|total| {
            seen += total.count;
            count > 0 && seen >= rank
        })
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    fn nanosecond_clock() -> Clock {
        Clock::Manual(std::sync::Arc::default())
    }

    #[test]
    fn upper_bounds_are_inclusive() {
        let bounds = BucketBounds::new(&nanosecond_clock());
        for (index, &bound) in BOUNDS_NANOS.iter().enumerate() {
            assert_eq!(bounds.bucket(bound), index);
            assert_eq!(bounds.bucket(bound + 1), index + 1);
        }
        assert_eq!(bounds.bucket(0), 0);
        assert_eq!(bounds.bucket(u64::MAX), BUCKETS - 1);
    }

    /// The naive oracle: sorts every sample by scanning the list of bounds.
    fn naive_snapshot(samples: &[u64]) -> HistogramSnapshot {
        let mut expected = HistogramSnapshot::default();
        for &nanos in samples {
            let exceeded = BOUNDS_NANOS.into_iter().filter(|&bound| nanos > bound).count();
            expected.buckets[exceeded].count += 1;
            expected.buckets[exceeded].ticks += nanos;
        }
        expected
    }

    #[test]
    fn a_histogram_agrees_with_the_naive_oracle() {
        let bounds = BucketBounds::new(&nanosecond_clock());
        // A linear congruential generator, shifted so that every magnitude up to 18 s occurs.
        let mut state = 1_u64;
        let samples: Vec<u64> = (0..20_000)
            .map(|round| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state >> (30 + round % 34)
            })
            .chain(BOUNDS_NANOS.into_iter().flat_map(|bound| [bound - 1, bound, bound + 1]))
            .collect();
        let (histogram, mut added) = (Histogram::default(), HistogramSnapshot::default());
        for &nanos in &samples {
            histogram.add(&bounds, nanos);
            added.add(&bounds, nanos);
        }
        let mut read = HistogramSnapshot::default();
        histogram.read_into(&mut read);
        assert_eq!(read, naive_snapshot(&samples));
        assert_eq!(added, naive_snapshot(&samples));
        assert!(read.buckets.iter().all(|total| total.count > 0), "every bucket is covered");
    }

    #[test]
    fn a_quantile_is_a_bucket() {
        let bounds = BucketBounds::new(&nanosecond_clock());
        let mut snapshot = HistogramSnapshot::default();
        assert_eq!(snapshot.quantile(0.99), None);
        for _ in 0..98 {
            snapshot.add(&bounds, 1);
        }
        snapshot.add(&bounds, 30_000_000);
        snapshot.add(&bounds, 30_000_000);
        assert_eq!(snapshot.quantile(0.5), Some(0));
        assert_eq!(snapshot.quantile(0.98), Some(0));
        assert_eq!(snapshot.quantile(0.99), Some(6));
        assert_eq!(snapshot.quantile(1.0), Some(6));
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use super::*;
    use ::loom::{sync::Arc, thread};

    #[test]
    fn loom_a_counted_sample_is_in_the_sum() {
        ::loom::model(|| {
            let bucket = Arc::new(Bucket::default());
            let reader = {
                let bucket = Arc::clone(&bucket);
                thread::spawn(move || {
                    let mut total = BucketTotal::default();
                    bucket.read_into(&mut total);
                    assert!(total.ticks >= 5 * total.count, "{total:?}");
                })
            };
            bucket.add(5);
            bucket.add(5);
            reader.join().unwrap();
            let mut total = BucketTotal::default();
            bucket.read_into(&mut total);
            assert_eq!(total, BucketTotal { count: 2, ticks: 10 });
        });
    }
}
