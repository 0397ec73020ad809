//! A histogram with one writer, and the plain numbers a reader takes from it.

use std::time::Duration;

use crate::clock::Clock;
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

/// Buckets of a histogram, the one without an upper bound included.
pub(crate) const BUCKETS: usize = BOUNDS_NANOS.len() + 1;

/// The bucket bounds in the ticks of one clock.
#[derive(Clone, Debug)]
pub(crate) struct Bounds([u64; BOUNDS_NANOS.len()]);

/// Histograms that one thread at a time adds to and any thread reads, by their numbers.
///
/// The first buckets of all of them lie beside each other: nearly all samples are short, so few cache lines are written to.
#[derive(Debug)]
pub(crate) struct Histograms<const N: usize> {
    buckets: [[Bucket; N]; BUCKETS],
}

/// A histogram by itself.
#[derive(Debug, Default)]
pub(crate) struct Histogram(Histograms<1>);

#[derive(Debug, Default)]
struct Bucket {
    count: AtomicU64,
    sum: AtomicU64,
}

/// What a [`Histogram`] held when it was read, or several of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Samples {
    pub(crate) buckets: [Sum; BUCKETS],
}

/// Samples of one bucket: how many, and their sum in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) count: u64,
    pub(crate) ticks: u64,
}

// === impl Bounds ===

impl Bounds {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self(BOUNDS_NANOS.map(|nanos| clock.ticks(Duration::from_nanos(nanos))))
    }

    /// The bound of the first bucket.
    #[inline]
    pub(crate) fn first(&self) -> u64 {
        self.0[0]
    }

    /// The bucket of a sample; one that equals a bound belongs below it, as Prometheus' `le` says.
    pub(crate) fn bucket(&self, ticks: u64) -> usize {
        self.0.iter().position(|&bound| ticks <= bound).unwrap_or(BUCKETS - 1)
    }
}

// === impl Histograms ===

impl<const N: usize> Histograms<N> {
    /// Adds one sample to one of them. Only the thread that owns them may call this.
    #[inline]
    pub(crate) fn add(&self, to: usize, bounds: &Bounds, ticks: u64) {
        if ticks <= bounds.first() { self.add_to_first(to, ticks) } else { self.add_long(to, bounds, ticks) }
    }

    #[cold]
    fn add_long(&self, to: usize, bounds: &Bounds, ticks: u64) {
        self.buckets[bounds.bucket(ticks)][to].add(ticks);
    }

    /// Adds one sample that belongs into the first bucket. Only the owner may call this.
    #[inline]
    pub(crate) fn add_to_first(&self, to: usize, ticks: u64) {
        self.buckets[0][to].add(ticks);
    }

    /// Adds what one of them holds to `samples`.
    pub(crate) fn read_into(&self, of: usize, samples: &mut Samples) {
        for (buckets, sum) in self.buckets.iter().zip(&mut samples.buckets) {
            buckets[of].read_into(sum);
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
    /// Adds one sample. Only the thread that owns the histogram may call this.
    pub(crate) fn add(&self, bounds: &Bounds, ticks: u64) {
        self.0.add(0, bounds, ticks);
    }

    /// Adds what the histogram holds to `samples`.
    pub(crate) fn read_into(&self, samples: &mut Samples) {
        self.0.read_into(0, samples);
    }
}

// === impl Bucket ===

impl Bucket {
    #[inline]
    fn add(&self, ticks: u64) {
        add(&self.sum, ticks, Ordering::Relaxed);
        // Release, the partner of the Acquire below: who sees the count sees the ticks of all it counts.
        add(&self.count, 1, Ordering::Release);
    }

    fn read_into(&self, sum: &mut Sum) {
        sum.count += self.count.load(Ordering::Acquire);
        sum.ticks = sum.ticks.wrapping_add(self.sum.load(Ordering::Relaxed));
    }
}

/// Adds to a number that only this thread writes: a load and a store, no locked instruction.
#[inline]
pub(crate) fn add(cell: &AtomicU64, by: u64, order: Ordering) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), order);
}

// === impl Samples ===

impl Samples {
    pub(crate) fn add(&mut self, bounds: &Bounds, ticks: u64) {
        let sum = &mut self.buckets[bounds.bucket(ticks)];
        sum.count += 1;
        sum.ticks += ticks;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (sum, more) in self.buckets.iter_mut().zip(&other.buckets) {
            sum.count += more.count;
            sum.ticks = sum.ticks.wrapping_add(more.ticks);
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().map(|sum| sum.count).sum()
    }

    pub(crate) fn ticks(&self) -> u64 {
        self.buckets.iter().map(|sum| sum.ticks).fold(0, u64::wrapping_add)
    }

    /// The bucket that holds the `quantile` of the samples, `None` without samples.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<usize> {
        let count = self.count();
        let rank = ((count as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        self.buckets.iter().position(|sum| {
            seen += sum.count;
            count > 0 && seen >= rank
        })
    }
}

#[cfg(all(test, not(tower_stall_loom)))]
mod tests {
    use super::*;

    fn nanosecond_clock() -> Clock {
        Clock::Manual(std::sync::Arc::default())
    }

    #[test]
    fn a_sample_on_a_bound_belongs_below_it() {
        let bounds = Bounds::new(&nanosecond_clock());
        for (index, &bound) in BOUNDS_NANOS.iter().enumerate() {
            assert_eq!(bounds.bucket(bound), index);
            assert_eq!(bounds.bucket(bound + 1), index + 1);
        }
        assert_eq!(bounds.bucket(0), 0);
        assert_eq!(bounds.bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn what_is_read_is_what_was_added() {
        let bounds = Bounds::new(&nanosecond_clock());
        let histogram = Histogram::default();
        let mut expected = Samples::default();
        for ticks in (0..2_000).map(|step| step * step * 7_919) {
            histogram.add(&bounds, ticks);
            expected.add(&bounds, ticks);
        }
        let mut read = Samples::default();
        histogram.read_into(&mut read);
        assert_eq!(read, expected);
        assert_eq!(read.count(), 2_000);
    }

    #[test]
    fn quantiles_name_the_bucket() {
        let bounds = Bounds::new(&nanosecond_clock());
        let mut samples = Samples::default();
        assert_eq!(samples.quantile(0.99), None);
        for _ in 0..98 {
            samples.add(&bounds, 1);
        }
        samples.add(&bounds, 30_000_000);
        samples.add(&bounds, 30_000_000);
        assert_eq!(samples.quantile(0.5), Some(0));
        assert_eq!(samples.quantile(0.98), Some(0));
        assert_eq!(samples.quantile(0.99), Some(6));
        assert_eq!(samples.quantile(1.0), Some(6));
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use super::*;
    use ::loom::{sync::Arc, thread};

    /// A test that a reader never counts a sample whose ticks it does not see.
    #[test]
    fn loom_a_count_comes_with_its_ticks() {
        ::loom::model(|| {
            let bucket = Arc::new(Bucket::default());
            let reader = {
                let bucket = Arc::clone(&bucket);
                thread::spawn(move || {
                    let mut sum = Sum::default();
                    bucket.read_into(&mut sum);
                    assert!(sum.ticks >= 5 * sum.count, "{sum:?}");
                })
            };
            bucket.add(5);
            bucket.add(5);
            reader.join().unwrap();
            let mut sum = Sum::default();
            bucket.read_into(&mut sum);
            assert_eq!(sum, Sum { count: 2, ticks: 10 });
        });
    }
}
