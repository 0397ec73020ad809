//! A recorder that never holds more samples than it can afford.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};

/// The exporter's recorder, drained whenever this many samples wait in it: 16 bytes each.
const MOST_WAITING: usize = 32_768;

#[derive(Debug)]
pub(super) struct DrainingRecorder {
    inner: PrometheusRecorder,
    drain: Arc<Drain>,
}

#[derive(Debug)]
struct Drain {
    handle: PrometheusHandle,
    waiting: AtomicUsize,
}

struct DrainingHistogram {
    inner: Histogram,
    drain: Arc<Drain>,
}

impl DrainingRecorder {
    pub(super) fn new(inner: PrometheusRecorder) -> Self {
        let drain = Arc::new(Drain { handle: inner.handle(), waiting: AtomicUsize::new(0) });
        Self { inner, drain }
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
            self.inner.record_many(value, now);
            self.drain.add(now);
            left -= now;
        }
    }
}

impl Drain {
    fn add(&self, samples: usize) {
        let waiting = self.waiting.fetch_add(samples, Ordering::Relaxed) + samples;
        if waiting >= MOST_WAITING {
            self.waiting.store(0, Ordering::Relaxed);
            self.handle.run_upkeep();
        }
    }
}
