//! Gauges that several monitors of one process set together.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use metrics::{Key, Recorder};

use super::catalogue::METADATA;

/// How the values of several monitors make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Combine {
    Sum,
    Max,
}

/// One monitor's part in the gauges. Taken back when it is dropped.
#[derive(Debug)]
pub(super) struct Gauges {
    monitor: u64,
    keys: HashMap<Key, Combine>,
}

type Parts = HashMap<Key, HashMap<u64, f64>>;

static PARTS: Mutex<Option<Parts>> = Mutex::new(None);

impl Gauges {
    pub(super) fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let monitor = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self { monitor, keys: HashMap::new() }
    }

    /// Sets this monitor's part. Done with each flush, changed or not, so that neither a late recorder nor one with an idle timeout
    /// lacks the series.
    pub(super) fn set(&mut self, recorder: &dyn Recorder, key: &Key, combine: Combine, value: f64) {
        if !self.keys.contains_key(key) {
            self.keys.insert(key.clone(), combine);
        }
        // Under the lock to the end, or another monitor's older value might be the last that is set.
        with_parts(|parts| {
            if !parts.contains_key(key) {
                parts.insert(key.clone(), HashMap::new());
            }
            if let Some(part) = parts.get_mut(key) {
                part.insert(self.monitor, value);
                recorder.register_gauge(key, &METADATA).set(combine.all(part));
            }
        });
    }

    /// Takes this monitor's parts back; what is left are those of the others.
    pub(super) fn take_back(&mut self, recorder: &dyn Recorder) {
        for (key, combine) in self.keys.drain() {
            with_parts(|parts| {
                let Some(part) = parts.get_mut(&key) else { return };
                part.remove(&self.monitor);
                recorder.register_gauge(&key, &METADATA).set(combine.all(part));
                if part.is_empty() {
                    parts.remove(&key);
                }
            });
        }
    }
}

impl Combine {
    fn all(self, part: &HashMap<u64, f64>) -> f64 {
        match self {
            Self::Sum => part.values().sum(),
            Self::Max => part.values().copied().fold(0.0, f64::max),
        }
    }
}

fn with_parts(f: impl FnOnce(&mut Parts)) {
    let mut parts = PARTS.lock().unwrap_or_else(PoisonError::into_inner);
    f(parts.get_or_insert_with(HashMap::new));
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    fn value(recorder: &DebuggingRecorder) -> f64 {
        match recorder.snapshotter().snapshot().into_vec().pop() {
            Some((_, _, _, DebugValue::Gauge(value))) => value.into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn monitors_add_up_and_take_their_parts_back() {
        let recorder = DebuggingRecorder::new();
        let key = Key::from_name("monitors_add_up");
        let (mut one, mut other) = (Gauges::new(), Gauges::new());
        one.set(&recorder, &key, Combine::Sum, 3.0);
        other.set(&recorder, &key, Combine::Sum, 4.0);
        one.set(&recorder, &key, Combine::Sum, 5.0);
        assert_eq!(value(&recorder), 9.0);
        one.take_back(&recorder);
        assert_eq!(value(&recorder), 4.0);
        other.take_back(&recorder);
        assert_eq!(value(&recorder), 0.0);
    }
}
