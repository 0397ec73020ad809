//! The counters of all threads, by route. What a thread has counted outlives it, its counters do not.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::routes::RouteId;
use crate::shard::{RouteCounters, RouteTotals};

/// The counters of every thread, by route.
#[derive(Debug)]
pub(crate) struct CountersByRoute(Box<[OnceLock<Mutex<OfRoute>>]>);

/// The counters of one route.
#[derive(Debug, Default)]
struct OfRoute {
    /// Those of the threads that exist.
    live: Vec<Arc<RouteCounters>>,
    /// The sum of those of the threads that have ended.
    ended: RouteTotals,
    /// The sum of their changes.
    ended_changes: u64,
}

// === impl CountersByRoute ===

impl CountersByRoute {
    pub(crate) fn new(routes: usize) -> Self {
        Self((0..routes).map(|_| OnceLock::new()).collect())
    }

    /// Creates the counters of a route on a thread, which must be given back by
    /// [`add_ended`](Self::add_ended).
    pub(crate) fn create(&self, route: RouteId) -> Arc<RouteCounters> {
        let counters = Arc::<RouteCounters>::default();
        let of_route = self.0[route.index()].get_or_init(Mutex::default);
        lock(of_route).live.push(Arc::clone(&counters));
        counters
    }

    /// Keeps the totals of counters that no thread adds to any more, and forgets the counters.
    pub(crate) fn add_ended(&self, route: RouteId, counters: &Arc<RouteCounters>) {
        let Some(mut of_route) = self.lock(route) else { return };
        let place = of_route.live.iter().position(|other| Arc::ptr_eq(other, counters));
        if let Some(place) = place {
            of_route.live.swap_remove(place);
            counters.add_to(&mut of_route.ended);
            of_route.ended_changes += counters.changes();
        }
    }

    /// Adds the totals of a route over all threads.
    ///
    /// Reads ends before starts, so that no request is seen to end that is not seen to start.
    pub(crate) fn add_totals(&self, route: RouteId, totals: &mut RouteTotals) {
        let Some(of_route) = self.lock(route) else { return };
        totals.merge(&of_route.ended);
        of_route.live.iter().for_each(|counters| counters.add_ended_to(totals));
        of_route.live.iter().for_each(|counters| counters.add_rest_to(totals));
    }

    /// Returns a number that grows whenever the totals of a route change.
    pub(crate) fn changes(&self, route: RouteId) -> u64 {
        self.lock(route).map_or(0, |of_route| {
            let live = of_route.live.iter().map(|counters| counters.changes());
            of_route.ended_changes + live.sum::<u64>()
        })
    }

    /// Returns `None` if no thread has served the route.
    fn lock(&self, route: RouteId) -> Option<MutexGuard<'_, OfRoute>> {
        self.0[route.index()].get().map(lock)
    }
}

fn lock(of_route: &Mutex<OfRoute>) -> MutexGuard<'_, OfRoute> {
    of_route.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Clock;
    use crate::shard::{BucketBounds, Outcome, ThreadCounters};

    #[test]
    fn what_an_ended_thread_has_counted_remains_without_its_counters() {
        let bounds = BucketBounds::new(&Clock::new());
        let (route, all) = (RouteId::from_index(40), CountersByRoute::new(64));
        let count = || {
            let thread = ThreadCounters::new(64);
            let counters = thread.get_or_create(route, || all.create(route));
            counters.start_request();
            counters.end_request(&bounds, Outcome::Success, 1, 1);
            counters.start_request();
            thread
        };
        let totals = || {
            let mut totals = RouteTotals::default();
            all.add_totals(route, &mut totals);
            (totals.started, totals.ended(), totals.request_duration.count(), all.changes(route))
        };
        assert_eq!(totals(), (0, 0, 0, 0));
        let (first, _second) = (count(), count());
        assert_eq!(totals(), (4, 2, 2, 6));
        for (route, counters) in first.iter() {
            all.add_ended(route, counters);
            all.add_ended(route, counters);
        }
        assert_eq!(totals(), (4, 2, 2, 6));
        let live = &all.lock(route).unwrap().live;
        assert_eq!(live.len(), 1);
    }
}
