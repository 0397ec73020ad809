//! The reporter's results, which any thread may read.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::collapsed_stacks::CollapsedStacks;
use super::stack_samples::StackSamples;
use crate::routes::RouteId;
use crate::shard::HistogramSnapshot;
use crate::stall::{Cause, Stall, TimeSplit};

/// The reporter's results behind a lock that no polling thread takes.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<HistoryInner>);

#[derive(Debug, Default)]
pub(crate) struct HistoryInner {
    /// The latest ended stalls, oldest first.
    pub(crate) recent: VecDeque<Stall>,
    /// All ended stalls by route and cause.
    pub(crate) stalls: HashMap<RouteId, HashMap<Cause, HistogramSnapshot>>,
    /// Where the time of all ended stalls went, by route. Adds up to the time in `stalls`.
    pub(crate) splits: HashMap<RouteId, TimeSplit>,
    /// The long polls that handed off their worker, by route.
    pub(crate) handed_off: HashMap<RouteId, u64>,
    /// The stacks of polls that are in progress or have just ended.
    pub(crate) samples: StackSamples,
    /// The stacks of all ended stalls, weighted by time.
    pub(crate) collapsed: CollapsedStacks,
    pub(crate) suppressed: u64,
    pub(crate) hook_panics: u64,
}

impl History {
    const RECENT: usize = 256;

    pub(crate) fn lock(&self) -> MutexGuard<'_, HistoryInner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HistoryInner {
    /// Returns where the time of a route's ended stalls went.
    pub(crate) fn split(&self, route: RouteId) -> TimeSplit {
        self.splits.get(&route).copied().unwrap_or_default()
    }

    pub(crate) fn push(&mut self, stall: Stall) {
        if self.recent.len() == History::RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(stall);
    }
}
