use std::sync::Arc;

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
}

impl PollContext {
    pub(crate) fn new(clock: Clock) -> Self {
        let bounds = BucketBounds::new(&clock);
        Self { clock, bounds, notifier: Arc::default(), thresholds: Arc::default() }
    }
}
