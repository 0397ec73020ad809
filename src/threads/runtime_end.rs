//! Notices that the watched runtime has ended.

use std::sync::Arc;

use crate::state::MonitorState;

/// Is owned by a task of the runtime, which drops it at its end.
pub(super) struct RuntimeEnd(Option<Arc<MonitorState>>);

impl RuntimeEnd {
    pub(super) fn new(monitor: &Arc<MonitorState>) -> Self {
        Self(Some(Arc::clone(monitor)))
    }

    /// Ends the observation, because the task returns.
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for RuntimeEnd {
    fn drop(&mut self) {
        if let Some(monitor) = &self.0 {
            monitor.runtime_ended.set();
        }
    }
}
