//! What the reporter has found out, for everybody to read.

mod collapsed;
mod samples;

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use self::collapsed::Collapsed;
pub(crate) use self::samples::{Sample, Samples as StackSamples, weighed};

use crate::cells::Samples;
use crate::routes::RouteId;
use crate::stall::{Cause, Stall};

/// What the reporter has found out, for everybody to read.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<Found>);

#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The last finished stalls, oldest first.
    pub(crate) recent: VecDeque<Stall>,
    /// All finished stalls by route, and by cause within it.
    pub(crate) stalls: HashMap<RouteId, HashMap<Cause, Samples>>,
    /// Long polls that gave their worker away, by route.
    pub(crate) handed_off: HashMap<RouteId, u64>,
    /// The stacks of polls that go on, or have just ended.
    pub(crate) samples: StackSamples,
    /// Where the time of all finished stalls went.
    pub(crate) collapsed: Collapsed,
    pub(crate) suppressed: u64,
    pub(crate) hook_panics: u64,
}

// === impl Board ===

impl Board {
    const RECENT: usize = 256;

    pub(crate) fn read(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Found {
    pub(crate) fn keep(&mut self, stall: Stall) {
        if self.recent.len() == Board::RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(stall);
    }
}
