//! What the poll path and the watching threads of one monitor share.

mod hitches;
mod inbox;
mod stalled;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

pub(crate) use self::hitches::{Hitch, Hitches};
pub(crate) use self::inbox::{Finished, Sighting};
pub(crate) use self::stalled::{Stalled, Unattributed};

use self::inbox::Inbox;

use crate::alarm::Alarm;
use crate::cells::{Bounds, Common, Lane, Lanes, Poll, Subject, Totals};
use crate::clock::Clock;
use crate::limits::Limits;
use crate::routes::{RouteId, Routes};
use crate::stacks::Captures;
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
    pub(crate) alarm: Arc<Alarm>,
    pub(crate) inbox: Inbox,
    pub(crate) captures: Captures,
    pub(crate) hitches: Hitches,
    /// What holds each worker and is not measured.
    pub(crate) unattributed: Box<[Unattributed]>,
    /// Why no stacks are taken, if none are.
    pub(crate) no_stacks: Option<&'static str>,
    /// Whether the user wishes them, and the build could have them.
    pub(crate) stacks_wanted: bool,
    pub(crate) stack_signals: bool,
    /// When the watchdog began its last look at everything, in ticks.
    looked: AtomicU64,
    pub(crate) limits: Arc<Limits>,
}

/// What the user wishes of stacks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stacks {
    pub(crate) taken: bool,
    /// Also those of threads that run.
    pub(crate) signals: bool,
}

impl Stacks {
    fn missing(self) -> Option<&'static str> {
        if self.taken { crate::stacks::unsupported() } else { Some("stacks are switched off") }
    }
}

impl Shared {
    pub(crate) fn new(
        clock: Clock,
        runtime: Handle,
        runtime_name: &str,
        max_routes: usize,
        route_label: Option<RouteLabel>,
        stacks: Stacks,
    ) -> Self {
        let routes = Routes::new(max_routes);
        let (bounds, alarm, limits) = (Bounds::new(&clock), Arc::<Alarm>::default(), Arc::<Limits>::default());
        let common = Common {
            clock: clock.clone(),
            bounds: bounds.clone(),
            alarm: Arc::clone(&alarm),
            limits: Arc::clone(&limits),
        };
        Self {
            bounds,
            lanes: Lanes::new(routes.len(), common),
            routes,
            route_label,
            unattributed: (0..runtime.metrics().num_workers()).map(|_| Unattributed::default()).collect(),
            runtime,
            runtime_name: runtime_name.into(),
            alarm,
            inbox: Inbox::default(),
            captures: Captures::new(stacks.missing().is_none()),
            hitches: Hitches::default(),
            no_stacks: stacks.missing(),
            stacks_wanted: stacks.taken && cfg!(feature = "stacks"),
            stack_signals: stacks.signals,
            looked: AtomicU64::new(0),
            limits,
            clock,
        }
    }

    /// The stall threshold, in ticks.
    #[inline]
    pub(crate) fn threshold(&self) -> u64 {
        self.limits.stall()
    }

    pub(crate) fn set_threshold(&self, threshold: Duration) {
        self.limits.set_stall(self.clock.ticks(threshold).max(1), self.bounds.first());
    }

    /// Notes which worker of the watched runtime this thread is, if any.
    pub(crate) fn locate(&self, lane: &Lane) {
        let here = Handle::try_current().is_ok_and(|here| here.id() == self.runtime.id());
        lane.set_worker(here.then(tokio::runtime::worker_index).flatten());
    }

    pub(crate) fn totals(&self, route: RouteId) -> Totals {
        Totals::read(self.lanes.cells(route))
    }

    /// The stalls that go on now.
    pub(crate) fn stalled(&self) -> impl Iterator<Item = Stalled<'_>> {
        let threshold = self.threshold();
        let measured = self.polling().map(|(lane, poll, age)| Stalled::of_lane(lane, poll, age));
        let now = self.clock.now();
        let others = self.unattributed.iter().enumerate();
        let others = others.filter_map(move |(worker, held)| Stalled::unattributed(worker, held, now));
        let stalled = measured.filter(move |stalled| stalled.age > threshold).chain(others);
        stalled.filter(|stalled| !stalled.watched.is_handed_off(stalled.poll.start))
    }

    /// Whether a poll has not ended yet.
    pub(crate) fn goes_on(&self, poll: Subject) -> bool {
        let now = |lane: &Lane| lane.slot.read().is_some_and(|now| lane.subject(now.start) == poll);
        let held = self.unattributed.iter().enumerate();
        let mut held = held.filter_map(|(worker, held)| Some(Stalled::subject(worker, held.start()?)));
        self.lanes.iter().any(|lane| now(lane)) || held.any(|held| held == poll)
    }

    /// Notes that a poll gave its worker away.
    pub(crate) fn hand_off(&self, poll: Subject) {
        let lanes = self.lanes.iter().filter(|lane| lane.subject(poll.start) == poll).map(|lane| &lane.watched);
        let workers = self.unattributed.iter().enumerate();
        let workers = workers.filter(|(worker, _)| Stalled::subject(*worker, poll.start) == poll);
        let watched = lanes.chain(workers.map(|(_, held)| &held.watched));
        watched.for_each(|watched| watched.hand_off(poll.start));
    }

    /// Says that the watchdog has looked at everything as it was at `at`, in ticks, or later.
    pub(crate) fn set_looked(&self, at: u64) {
        // Release, the partner of the Acquire below: who sees it sees what the watchdog noted and sent before.
        self.looked.store(at, Ordering::Release);
    }

    /// Up to when the watchdog has seen everything, in ticks.
    pub(crate) fn looked(&self) -> u64 {
        self.looked.load(Ordering::Acquire)
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
