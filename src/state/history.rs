//! The results of the reporter and of the threads that it sends to, which any thread may read.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::collapsed_stacks::CollapsedStacks;
use super::delay_totals::DelayTotals;
use super::stack_samples::StackSamples;
use crate::routes::RouteId;
use crate::shard::{HistogramSnapshot, PollId};
use crate::stall::{Cause, Stall, TimeSplit};

/// The reporter's results behind a lock that no polling thread takes.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<HistoryInner>);

#[derive(Debug, Default)]
pub(crate) struct HistoryInner {
    /// The latest ended stalls, oldest first.
    recent: VecDeque<RecentStall>,
    /// All ended stalls by route and cause.
    pub(crate) stalls: HashMap<RouteId, HashMap<Cause, HistogramSnapshot>>,
    /// Where the time of all ended stalls went, by route. Adds up to the time in `stalls`.
    pub(crate) splits: HashMap<RouteId, TimeSplit>,
    pub(crate) delays: DelayTotals,
    /// The long polls that handed off their worker, by route.
    pub(crate) handed_off: HashMap<RouteId, u64>,
    /// The polls over the threshold on threads that are no workers, by route.
    pub(crate) off_worker: HashMap<RouteId, u64>,
    /// The stacks of polls that are in progress or have just ended.
    pub(crate) samples: StackSamples,
    /// The stacks of all ended stalls, weighted by time.
    pub(crate) collapsed: CollapsedStacks,
    pub(crate) suppressed: u64,
    pub(crate) hook_panics: u64,
}

#[derive(Debug)]
struct RecentStall {
    id: PollId,
    /// When the poll ended, in ticks.
    end: u64,
    stall: Stall,
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

    /// Returns the latest ended stalls, oldest first.
    pub(crate) fn recent(&self) -> impl Iterator<Item = &Stall> {
        self.recent.iter().map(|recent| &recent.stall)
    }

    /// Adds an ended stall. Some arrive late, because their stacks were still to be symbolized.
    pub(crate) fn push(&mut self, id: PollId, end: u64, stall: Stall) {
        let later = self.recent.iter().rev().take_while(|recent| recent.end > end).count();
        self.recent.insert(self.recent.len() - later, RecentStall { id, end, stall });
        if self.recent.len() > History::RECENT {
            self.recent.pop_front();
        }
    }

    /// Replaces an ended stall, unless it is not one of the latest any more.
    pub(crate) fn replace(&mut self, id: PollId, stall: Stall) {
        if let Some(recent) = self.recent.iter_mut().rev().find(|recent| recent.id == id) {
            recent.stall = stall;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stall(worker: usize) -> Stall {
        Stall { worker: Some(worker), ..Stall::for_tests([]) }
    }

    fn id(start: u64) -> PollId {
        PollId { shard: 1, start }
    }

    fn workers(history: &HistoryInner) -> Vec<usize> {
        history.recent().filter_map(Stall::worker).collect()
    }

    #[test]
    fn recent_stalls_are_in_the_order_of_their_ends() {
        let mut history = HistoryInner::default();
        for end in [1, 3, 2, 3, 0] {
            history.push(id(end), end, stall(end as usize));
        }
        assert_eq!(workers(&history), [0, 1, 2, 3, 3]);
        history.replace(id(2), stall(7));
        history.replace(id(9), stall(9));
        assert_eq!(workers(&history), [0, 1, 7, 3, 3]);
    }

    #[test]
    fn the_latest_recent_stalls_are_kept() {
        let mut history = HistoryInner::default();
        (0..300).for_each(|end| history.push(id(end), end, stall(end as usize)));
        history.push(id(0), 0, stall(0));
        assert_eq!(workers(&history), (44..300).collect::<Vec<_>>());
    }
}
