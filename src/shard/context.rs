use std::sync::Arc;
use std::time::Duration;

use super::{BucketBounds, Notifier, Thresholds};
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
    /// The shortest poll that may have delayed others noticeably, and the shortest delay that is
    /// attributed, in ticks.
    min_delay: u64,
}

impl PollContext {
    const MIN_DELAY: Duration = Duration::from_millis(1);

    pub(crate) fn new(clock: Clock) -> Self {
        let (bounds, min_delay) = (BucketBounds::new(&clock), clock.ticks(Self::MIN_DELAY));
        Self { clock, bounds, notifier: Arc::default(), thresholds: Arc::default(), min_delay }
    }

    /// Returns whether a poll or a delay is long enough for the attribution of delays. A negative
    /// one, of clocks that differ, is not.
    pub(crate) fn is_attributed(&self, ticks: u64) -> bool {
        (self.min_delay..=i64::MAX as u64).contains(&ticks)
    }
}
