//! A `metrics` recorder that reports when one gauge becomes positive.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use metrics::{
    Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

/// Sends the time of every positive update of the gauge `name`, and ignores all other metrics.
pub struct GaugeRecorder {
    name: &'static str,
    updates: Arc<PositiveUpdates>,
}

struct PositiveUpdates(Mutex<Sender<Instant>>);

impl GaugeRecorder {
    pub fn new(name: &'static str, updates: Sender<Instant>) -> Self {
        Self { name, updates: Arc::new(PositiveUpdates(Mutex::new(updates))) }
    }
}

impl GaugeFn for PositiveUpdates {
    fn set(&self, value: f64) {
        if value > 0.0 {
            let now = Instant::now();
            let _ = self.0.lock().expect("no panic while locked").send(now);
        }
    }

    fn increment(&self, _: f64) {}

    fn decrement(&self, _: f64) {}
}

impl Recorder for GaugeRecorder {
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        if key.name() == self.name {
            Gauge::from_arc(Arc::clone(&self.updates))
        } else {
            Gauge::noop()
        }
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }

    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
}
