//! A handle that does not keep the monitor alive.

use std::sync::{Arc, Weak};

use super::StallMonitor;
use crate::threads::MonitorGuard;

pub(crate) struct WeakMonitor(Weak<MonitorGuard>);

impl WeakMonitor {
    pub(crate) fn new(monitor: &StallMonitor) -> Self {
        Self(Arc::downgrade(&monitor.guard))
    }

    pub(crate) fn upgrade(&self) -> Option<StallMonitor> {
        Some(StallMonitor { guard: self.0.upgrade()? })
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl PartialEq for WeakMonitor {
    fn eq(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}
