use std::sync::Arc;

use super::{BucketBounds, Lateness, Notifier, Thresholds};
use crate::os::Clock;

/// The state of a monitor that every poll reads.
///
/// Each shard has a copy, so that a poll needs one pointer.
#[derive(Clone, Debug)]
pub(crate) struct PollContext {
    pub(crate) clock: Clock,
    pub(crate) bounds: BucketBounds,
    pub(crate) notifier: Arc<Notifier>,
    pub(crate) thresholds: Arc<Thresholds>,
    pub(crate) lateness: Arc<Lateness>,
}

impl PollContext {
    pub(crate) fn new(clock: Clock) -> Self {
        let bounds = BucketBounds::new(&clock);
        let lateness = Arc::new(Lateness::new(&clock));
        Self { clock, bounds, notifier: Arc::default(), thresholds: Arc::default(), lateness }
    }

    /// Returns whether a poll or a delay is long enough for the attribution of delays. A negative
    /// one, of clocks that differ, is not.
    pub(crate) fn is_attributed(&self, ticks: u64) -> bool {
        self.lateness.is_delay(ticks)
    }
}
