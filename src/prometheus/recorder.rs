//! A recorder that never holds more samples than it can afford.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::fmt;

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};

/// The exporter's recorder, drained whenever this many samples wait in it: 16 bytes each.
const MOST_WAITING: usize = 16_384;

#[derive(Debug)]
pub(super) struct DrainingRecorder {
    inner: PrometheusRecorder,
    drain: Arc<Drain>,
}

/// The exporter's samples. A sample that is pushed into the exporter's list while another thread drains it may be lost, so nobody
/// does the one during the other.
pub(super) struct Drain {
    handle: PrometheusHandle,
    /// How many wait, about.
    waiting: Mutex<usize>,
}

struct DrainingHistogram {
    inner: Histogram,
    drain: Arc<Drain>,
}

impl DrainingRecorder {
    pub(super) fn new(inner: PrometheusRecorder) -> Self {
        let drain = Arc::new(Drain { handle: inner.handle(), waiting: Mutex::new(0) });
        Self { inner, drain }
    }

    pub(super) fn drain(&self) -> Arc<Drain> {
        Arc::clone(&self.drain)
    }
}

impl Recorder for DrainingRecorder {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.inner.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.inner.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.inner.describe_histogram(key, unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.inner.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.inner.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        let inner = self.inner.register_histogram(key, metadata);
        // Other libraries record on polling threads, which no drain may hold up. They have the upkeep of the serving thread.
        if !key.name().starts_with(crate::export::PREFIX) {
            return inner;
        }
        Histogram::from_arc(Arc::new(DrainingHistogram { inner, drain: Arc::clone(&self.drain) }))
    }
}

impl HistogramFn for DrainingHistogram {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        let mut left = count;
        while left > 0 {
            let now = left.min(MOST_WAITING);
            self.drain.add(now, || self.inner.record_many(value, now));
            left -= now;
        }
    }
}

impl Drain {
    /// The metrics as text.
    pub(super) fn render(&self) -> String {
        let mut waiting = self.waiting();
        *waiting = 0;
        self.handle.render()
    }

    pub(super) fn run_upkeep(&self) {
        let mut waiting = self.waiting();
        *waiting = 0;
        self.handle.run_upkeep();
    }

    fn add(&self, samples: usize, push: impl FnOnce()) {
        let mut waiting = self.waiting();
        push();
        *waiting += samples;
        if *waiting >= MOST_WAITING {
            *waiting = 0;
            self.handle.run_upkeep();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").finish_non_exhaustive()
    }
}
