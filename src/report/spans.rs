//! Gives the spans of requests back to the runtime that they are of.
//!
//! A report keeps the span of its request open until its event is written. The drop of
//! the last handle closes a span, and a subscriber may do anything then: export the span, wait for
//! that, use the current runtime. So the last handle is dropped where the request itself would
//! have dropped it: on the runtime.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use crate::state::MonitorState;
use crate::trace::SpanRef;

/// Drops spans in a task of the watched runtime. Returns the spans if the runtime has shut down.
///
/// One wake-up of the runtime, whatever the number of spans.
pub(super) fn give_back(monitor: &MonitorState, mut spans: Vec<SpanRef>) -> Vec<SpanRef> {
    spans.retain(SpanRef::is_some);
    if spans.is_empty() {
        return spans;
    }
    let ours = Arc::new(Mutex::new(spans));
    let theirs = Arc::clone(&ours);
    let task = async move {
        // Taken out first: they must not be dropped under the lock.
        let spans = take(&theirs);
        drop(spans);
    };
    let spawn = || drop(monitor.runtime.spawn(task));
    let _ = catch_unwind(AssertUnwindSafe(spawn));
    // A runtime that has shut down drops the task here and now, unpolled: then the only owner of
    // the spans is this thread, which must not close them.
    Arc::into_inner(ours).map(|spans| take(&spans)).unwrap_or_default()
}

fn take(spans: &Mutex<Vec<SpanRef>>) -> Vec<SpanRef> {
    std::mem::take(&mut *spans.lock().unwrap_or_else(PoisonError::into_inner))
}
