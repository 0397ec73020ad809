//! A recorder that buffers a bounded number of samples.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};

use super::PREFIX;
use crate::export::seconds_counters;

/// The exporter's recorder is drained whenever it buffers this many samples, of 16 bytes each.
const MAX_BUFFERED: usize = 16_384;

#[derive(Debug)]
pub(super) struct DrainingRecorder {
    inner: PrometheusRecorder,
    drain: Arc<Drain>,
}

/// The exporter's samples.
///
/// The exporter's bucket list (`AtomicBucket` of metrics-util 0.20) may lose a sample that is
/// pushed while another thread drains it, so the two exclude each other here.
pub(super) struct Drain {
    handle: PrometheusHandle,
    /// The approximate number of samples that are buffered.
    buffered: Mutex<usize>,
}

struct DrainingHistogram {
    inner: Histogram,
    drain: Arc<Drain>,
}

// === impl DrainingRecorder ===

impl DrainingRecorder {
    pub(super) fn new(inner: PrometheusRecorder) -> Self {
        let drain = Arc::new(Drain { handle: inner.handle(), buffered: Mutex::new(0) });
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
        // Other libraries record on polling threads, which must not wait for a drain. The upkeep of
        // the server's thread drains theirs.
        if !key.name().starts_with(PREFIX) {
            return inner;
        }
        Histogram::from_arc(Arc::new(DrainingHistogram { inner, drain: Arc::clone(&self.drain) }))
    }
}

// === impl DrainingHistogram ===

impl HistogramFn for DrainingHistogram {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        let mut remaining = count;
        while remaining > 0 {
            let chunk = remaining.min(MAX_BUFFERED);
            self.drain.push(chunk, || self.inner.record_many(value, chunk));
            remaining -= chunk;
        }
    }
}

// === impl Drain ===

impl Drain {
    /// Renders the metrics as text.
    pub(super) fn render(&self) -> String {
        let mut buffered = self.lock();
        *buffered = 0;
        let text = self.handle.render();
        drop(buffered);
        with_counter_types(text)
    }

    pub(super) fn run_upkeep(&self) {
        let mut buffered = self.lock();
        *buffered = 0;
        self.handle.run_upkeep();
    }

    fn push(&self, samples: usize, push: impl FnOnce()) {
        let mut buffered = self.lock();
        push();
        *buffered += samples;
        if *buffered >= MAX_BUFFERED {
            *buffered = 0;
            self.handle.run_upkeep();
        }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.buffered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Declares the counters of seconds as such. The facade can carry fractions only as gauges.
fn with_counter_types(text: String) -> String {
    seconds_counters().fold(text, |text, name| {
        let (gauge, counter) =
            (format!("# TYPE {name} gauge\n"), format!("# TYPE {name} counter\n"));
        text.replacen(&gauge, &counter, 1)
    })
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").finish_non_exhaustive()
    }
}
