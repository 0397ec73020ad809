//! What the poll path and the watching threads of one monitor share.

mod alarm;
mod inbox;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

pub(crate) use self::inbox::{Finished, Sighting};

use self::alarm::Alarm;
use self::inbox::Inbox;

use crate::cells::{Bounds, Lane, Lanes, OwnLane, Poll, Totals};
use crate::clock::Clock;
use crate::routes::{RouteId, Routes};
use crate::sync::{AtomicU64, Ordering};

/// A user's function from method and URI to a route.
pub(crate) type RouteLabel = Arc<dyn Fn(&http::Method, &http::Uri) -> Option<String> + Send + Sync>;

pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) bounds: Bounds,
    pub(crate) routes: Routes,
    pub(crate) route_label: Option<RouteLabel>,
    pub(crate) lanes: Lanes,
    pub(crate) runtime: Handle,
    pub(crate) runtime_name: Arc<str>,
    pub(crate) alarm: Alarm,
    pub(crate) inbox: Inbox,
    threshold: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        clock: Clock,
        runtime: Handle,
        runtime_name: &str,
        max_routes: usize,
        route_label: Option<RouteLabel>,
    ) -> Self {
        let routes = Routes::new(max_routes);
        Self {
            bounds: Bounds::new(&clock),
            lanes: Lanes::new(routes.len()),
            routes,
            route_label,
            runtime,
            runtime_name: runtime_name.into(),
            alarm: Alarm::default(),
            inbox: Inbox::default(),
            threshold: AtomicU64::new(0),
            clock,
        }
    }

    /// The stall threshold, in ticks.
    #[inline]
    pub(crate) fn threshold(&self) -> u64 {
        self.threshold.load(Ordering::Relaxed)
    }

    pub(crate) fn set_threshold(&self, threshold: Duration) {
        self.threshold.store(self.clock.ticks(threshold).max(1), Ordering::Relaxed);
    }

    /// This thread's lane.
    #[inline]
    pub(crate) fn own_lane(&self) -> OwnLane {
        self.lanes.own(|lane| self.locate(lane))
    }

    /// Notes which worker of the watched runtime this thread is, if any.
    pub(crate) fn locate(&self, lane: &Lane) {
        let here = Handle::try_current().is_ok_and(|here| here.id() == self.runtime.id());
        lane.set_worker(here.then(tokio::runtime::worker_index).flatten());
    }

    pub(crate) fn totals(&self, route: RouteId) -> Totals {
        Totals::read(self.lanes.cells(route))
    }

    /// The stalls that go on now: where, which poll, and its age in ticks.
    pub(crate) fn stalled(&self) -> impl Iterator<Item = (&Lane, Poll, u64)> {
        let threshold = self.threshold();
        self.polling().filter(move |(_, _, age)| *age > threshold)
    }

    /// The polls that go on now: where, which one, and its age in ticks.
    pub(crate) fn polling(&self) -> impl Iterator<Item = (&Lane, Poll, u64)> {
        self.lanes.iter().filter_map(|lane| {
            let poll = lane.slot.read()?;
            Some((&**lane, poll, self.clock.now().saturating_sub(poll.start)))
        })
    }

    /// Requests in flight other than one of `route` that has stalled.
    pub(crate) fn held_up_by(&self, route: RouteId) -> usize {
        let own = usize::from(!self.routes.is_task(route));
        self.lanes.requests_in_flight().saturating_sub(own)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("runtime", &self.runtime_name).finish_non_exhaustive()
    }
}
