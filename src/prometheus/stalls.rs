//! The page `GET /stalls`.

use std::fmt;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::monitor::{StallMonitor, WeakMonitor};

/// The monitors that are shown.
#[derive(Clone, Default)]
pub(super) struct StallsPage(Arc<Mutex<Vec<WeakMonitor>>>);

impl StallsPage {
    /// Adds a monitor, unless it is shown already.
    pub(super) fn add(&self, monitor: &StallMonitor) {
        let (mut monitors, monitor) = (self.lock(), WeakMonitor::new(monitor));
        monitors.retain(WeakMonitor::is_alive);
        if !monitors.contains(&monitor) {
            monitors.push(monitor);
        }
    }

    /// Returns whether the page exists.
    pub(super) fn is_enabled(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Renders the reports: of each monitor those in progress first, then the latest.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        for monitor in self.lock().iter().filter_map(WeakMonitor::upgrade) {
            for stall in monitor.recent_stalls().into_iter().rev() {
                let _ = writeln!(text, "{stall:#}\n");
            }
        }
        if text.is_empty() {
            text.push_str("no stalls\n");
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, Vec<WeakMonitor>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for StallsPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StallsPage").finish_non_exhaustive()
    }
}
