//! A subscriber that panics.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Counts the events of one level, and panics at each of them, without the panic hook.
#[derive(Clone)]
pub(crate) struct PanickingSubscriber {
    level: Level,
    events: Arc<AtomicUsize>,
}

impl PanickingSubscriber {
    pub(crate) fn new(level: Level) -> Self {
        Self { level, events: Arc::default() }
    }

    pub(crate) fn events(&self) -> usize {
        self.events.load(Ordering::Relaxed)
    }
}

impl Subscriber for PanickingSubscriber {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if *event.metadata().level() == self.level {
            self.events.fetch_add(1, Ordering::Relaxed);
            std::panic::resume_unwind(Box::new("a panic of the subscriber"));
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
