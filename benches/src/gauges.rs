//! A recorder that tells when a gauge rises above zero, and forgets all else.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use metrics::{Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

pub struct Gauges {
    name: &'static str,
    rises: Arc<Rises>,
}

/// To where the moments go.
struct Rises(Mutex<Sender<Instant>>);

impl Gauges {
    pub fn new(name: &'static str, rises: Sender<Instant>) -> Self {
        Self { name, rises: Arc::new(Rises(Mutex::new(rises))) }
    }
}

impl GaugeFn for Rises {
    fn set(&self, value: f64) {
        if value > 0.0 {
            let now = Instant::now();
            let _ = self.0.lock().expect("no panic").send(now);
        }
    }

    fn increment(&self, _: f64) {}

    fn decrement(&self, _: f64) {}
}

impl Recorder for Gauges {
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        if key.name() == self.name { Gauge::from_arc(Arc::clone(&self.rises)) } else { Gauge::noop() }
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
