//! Gauges that several monitors of one process set together.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use metrics::Key;

use super::descriptions::METADATA;
use super::flush::Flush;

/// How the values of several monitors are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aggregation {
    Sum,
    Max,
}

/// The contributions of one monitor to the gauges.
#[derive(Debug)]
pub(super) struct Gauges {
    monitor: u64,
    contributed: HashMap<Key, (Aggregation, f64)>,
}

/// The values of each gauge by monitor.
type Contributions = HashMap<Key, HashMap<u64, f64>>;

static CONTRIBUTIONS: Mutex<Option<Contributions>> = Mutex::new(None);

impl Gauges {
    pub(super) fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let monitor = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self { monitor, contributed: HashMap::new() }
    }

    /// Sets the contribution of this monitor, in a full flush even if it has not changed.
    pub(super) fn set(
        &mut self,
        flush: &Flush<'_>,
        key: &Key,
        aggregation: Aggregation,
        value: f64,
    ) {
        match self.contributed.get_mut(key) {
            Some((_, last)) if *last == value && !flush.is_full => return,
            Some((_, last)) => *last = value,
            None => _ = self.contributed.insert(key.clone(), (aggregation, value)),
        }
        // Under the lock to the end: otherwise an older value of another monitor could be set last.
        with_contributions(|contributions| {
            if !contributions.contains_key(key) {
                contributions.insert(key.clone(), HashMap::new());
            }
            if let Some(values) = contributions.get_mut(key) {
                values.insert(self.monitor, value);
                flush.recorder.register_gauge(key, &METADATA).set(aggregation.apply(values));
            }
        });
    }

    /// Withdraws the contributions of this monitor; those of the others remain.
    pub(super) fn withdraw(&mut self, recorder: &dyn metrics::Recorder) {
        for (key, (aggregation, _)) in self.contributed.drain() {
            with_contributions(|contributions| {
                let Some(values) = contributions.get_mut(&key) else { return };
                values.remove(&self.monitor);
                recorder.register_gauge(&key, &METADATA).set(aggregation.apply(values));
                if values.is_empty() {
                    contributions.remove(&key);
                }
            });
        }
    }
}

impl Aggregation {
    fn apply(self, values: &HashMap<u64, f64>) -> f64 {
        match self {
            // Not `sum`, which is -0 for nothing.
            Self::Sum => values.values().fold(0.0, |sum, value| sum + value),
            Self::Max => values.values().copied().fold(0.0, f64::max),
        }
    }
}

fn with_contributions(f: impl FnOnce(&mut Contributions)) {
    let mut contributions = CONTRIBUTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    f(contributions.get_or_insert_with(HashMap::new));
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
    fn monitors_contribute_to_a_gauge_until_they_withdraw() {
        let recorder = DebuggingRecorder::new();
        let key = Key::from_name("monitors_contribute");
        let clock = crate::os::Clock::new();
        let flush = Flush { recorder: &recorder, clock: &clock, is_full: false };
        let (mut one, mut other) = (Gauges::new(), Gauges::new());
        one.set(&flush, &key, Aggregation::Sum, 3.0);
        other.set(&flush, &key, Aggregation::Sum, 4.0);
        one.set(&flush, &key, Aggregation::Sum, 5.0);
        assert_eq!(value(&recorder), 9.0);
        one.withdraw(&recorder);
        assert_eq!(value(&recorder), 4.0);
        other.withdraw(&recorder);
        let withdrawn = value(&recorder);
        assert!(withdrawn == 0.0 && withdrawn.is_sign_positive());
    }
}
