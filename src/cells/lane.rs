//! One lane per thread: its slot and its cells. Lanes are never removed; that of a thread that ended goes to the next new one.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use super::RouteCells;
use super::histogram::add;
use super::slot::Slot;
use super::watched::Watched;
use crate::os::Tid;
use crate::routes::{Known, Method, RouteId, Routes};
use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// What one thread writes, and no other.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Lane {
    pub(crate) slot: Slot,
    requests_started: AtomicU64,
    requests_ended: AtomicU64,
    /// How long polls inside the one that goes on have stalled, in ticks: it is not blamed for the same time.
    stalled_inside: AtomicU64,
    /// The worker's index in the watched runtime plus one, 0 for other threads.
    worker: AtomicU64,
    /// The thread's number in the kernel, 0 while nobody has the lane.
    thread: AtomicU64,
    /// The lowest address of the thread's stack, and the first one above it; 0 where they are not known.
    stack: [AtomicU64; 2],
    routes: Box<[OnceLock<Box<RouteCells>>]>,
    owner: Owner,
    pub(crate) watched: Watched,
}

/// Which poll something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Subject {
    /// The lane, by its address, or another number that no lane has.
    pub(crate) lane: usize,
    /// When the poll began, in ticks.
    pub(crate) start: u64,
}

/// Whether a thread has the lane. Whoever turns it from free to taken is the one writer until it is free again.
#[derive(Debug)]
struct Owner(AtomicBool);

/// The lanes of one monitor, a list that only grows.
#[derive(Debug)]
pub(crate) struct Lanes {
    id: LanesId,
    routes: usize,
    head: OnceLock<Box<Node>>,
}

/// Tells the lanes of one monitor from those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LanesId(u64);

#[derive(Debug)]
struct Node {
    lane: Arc<Lane>,
    next: OnceLock<Box<Node>>,
}

/// A lane taken by this thread.
#[derive(Debug)]
pub(crate) struct Taken {
    lanes: LanesId,
    lane: Arc<Lane>,
    routes: Known,
}

/// This thread's lane.
#[derive(Debug)]
pub(crate) enum OwnLane {
    Kept(Arc<Lane>),
    /// The thread is ending and its kept lanes are gone already: one for the moment.
    Passing(Box<Taken>),
}

thread_local! {
    static TAKEN: RefCell<Vec<Taken>> = const { RefCell::new(Vec::new()) };
}

// === impl Lane ===

impl Lane {
    fn new(routes: usize) -> Self {
        Self {
            slot: Slot::default(),
            requests_started: AtomicU64::new(0),
            requests_ended: AtomicU64::new(0),
            stalled_inside: AtomicU64::new(0),
            worker: AtomicU64::new(0),
            thread: AtomicU64::new(0),
            stack: [AtomicU64::new(0), AtomicU64::new(0)],
            routes: (0..routes).map(|_| OnceLock::new()).collect(),
            owner: Owner(AtomicBool::new(true)),
            watched: Watched::default(),
        }
    }

    /// The cells of a route, made when the thread first meets it.
    #[inline]
    pub(crate) fn cells(&self, route: RouteId) -> &RouteCells {
        self.routes[route.index()].get_or_init(Box::default)
    }

    #[inline]
    pub(crate) fn request_started(&self) {
        add(&self.requests_started, 1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn request_ended(&self) {
        add(&self.requests_ended, 1, Ordering::Release);
    }

    pub(crate) fn worker(&self) -> Option<usize> {
        self.worker.load(Ordering::Relaxed).checked_sub(1).map(|index| index as usize)
    }

    pub(crate) fn set_worker(&self, worker: Option<usize>) {
        self.worker.store(worker.map_or(0, |index| index as u64 + 1), Ordering::Relaxed);
    }

    /// The poll in this lane that began at `start`.
    pub(crate) fn subject(&self, start: u64) -> Subject {
        Subject { lane: std::ptr::from_ref(self).addr(), start }
    }

    /// The thread that has the lane and its stack's bounds.
    pub(crate) fn thread(&self) -> Option<(Tid, [u64; 2])> {
        // Acquire, the partner of the Release below.
        let thread = i32::try_from(self.thread.load(Ordering::Acquire)).ok().filter(|&thread| thread != 0)?;
        Some((Tid(thread), [0, 1].map(|end| self.stack[end].load(Ordering::Relaxed))))
    }

    pub(crate) fn set_thread(&self, thread: Tid, stack: [u64; 2]) {
        for (end, address) in self.stack.iter().zip(stack) {
            end.store(address, Ordering::Relaxed);
        }
        self.thread.store(u64::try_from(thread.0).unwrap_or(0), Ordering::Release);
    }

    /// Takes the time of the stalls inside the poll that goes on, or has just ended.
    #[inline]
    pub(crate) fn take_stalled_inside(&self) -> u64 {
        let ticks = self.stalled_inside.load(Ordering::Relaxed);
        self.set_stalled_inside(0);
        ticks
    }

    /// Sets the time of the stalls inside the poll that goes on.
    #[inline]
    pub(crate) fn set_stalled_inside(&self, ticks: u64) {
        self.stalled_inside.store(ticks, Ordering::Relaxed);
    }
}

// === impl Owner ===

impl Owner {
    fn take(&self) -> bool {
        // Acquire, the partner of the Release in `free`: the new owner goes on from what the last one wrote.
        self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn free(&self) {
        self.0.store(false, Ordering::Release);
    }
}

// === impl Lanes ===

impl Lanes {
    pub(crate) fn new(routes: usize) -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let id = LanesId(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        Self { id, routes, head: OnceLock::new() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Lane>> + Clone {
        std::iter::successors(self.head.get(), |node| node.next.get()).map(|node| &node.lane)
    }

    /// The cells of a route on every thread that has met it.
    pub(crate) fn cells(&self, route: RouteId) -> impl Iterator<Item = &RouteCells> + Clone {
        self.iter().filter_map(move |lane| lane.routes[route.index()].get().map(|cells| &**cells))
    }

    /// Requests in flight, instrumented tasks left out. Ends are read first, as in [`Totals::read`](super::Totals::read).
    pub(crate) fn requests_in_flight(&self) -> usize {
        let ended: u64 = self.iter().map(|lane| lane.requests_ended.load(Ordering::Acquire)).sum();
        let started: u64 = self.iter().map(|lane| lane.requests_started.load(Ordering::Relaxed)).sum();
        started.saturating_sub(ended) as usize
    }

    /// This thread's lane; `first` is called with one that is new to it.
    #[inline]
    pub(crate) fn own(&self, first: impl FnOnce(&Lane)) -> OwnLane {
        let kept = TAKEN.try_with(|taken| {
            let mut taken = taken.borrow_mut();
            match taken.iter().find(|taken| taken.lanes == self.id) {
                Some(own) => Arc::clone(&own.lane),
                None => self.keep(&mut taken, first),
            }
        });
        kept.map_or_else(|_| OwnLane::Passing(Box::new(Taken::new(self))), OwnLane::Kept)
    }

    /// The number of a pair, from this thread's own table where it is there.
    #[inline]
    pub(crate) fn route(&self, routes: &Routes, method: Method, name: Option<&str>) -> RouteId {
        let Some(name) = name else {
            return routes.id(method, None);
        };
        let own = TAKEN.try_with(|taken| {
            let mut taken = taken.borrow_mut();
            let own = taken.iter_mut().find(|taken| taken.lanes == self.id)?;
            Some(own.route(routes, method, name))
        });
        own.ok().flatten().unwrap_or_else(|| routes.id(method, Some(name)))
    }

    #[cold]
    fn keep(&self, taken: &mut Vec<Taken>, first: impl FnOnce(&Lane)) -> Arc<Lane> {
        // Lanes that no monitor knows any more are only in the way.
        taken.retain(|taken| Arc::strong_count(&taken.lane) > 1);
        let own = Taken::new(self);
        first(&own.lane);
        let lane = Arc::clone(&own.lane);
        taken.push(own);
        lane
    }

    fn take(&self) -> Arc<Lane> {
        match self.iter().find(|lane| lane.owner.take()) {
            Some(free) => Arc::clone(free),
            None => self.push(),
        }
    }

    fn push(&self) -> Arc<Lane> {
        let lane = Arc::new(Lane::new(self.routes));
        let mut node = Box::new(Node { lane: Arc::clone(&lane), next: OnceLock::new() });
        let mut end = &self.head;
        loop {
            match end.get() {
                Some(taken) => end = &taken.next,
                None => match end.set(node) {
                    Ok(()) => return lane,
                    Err(refused) => node = refused,
                },
            }
        }
    }
}

// === impl Taken ===

impl Taken {
    fn new(lanes: &Lanes) -> Self {
        Self { lanes: lanes.id, lane: lanes.take(), routes: Known::default() }
    }

    #[inline]
    fn route(&mut self, routes: &Routes, method: Method, name: &str) -> RouteId {
        self.routes.get(method, name).unwrap_or_else(|| self.learn(routes, method, name))
    }

    #[cold]
    fn learn(&mut self, routes: &Routes, method: Method, name: &str) -> RouteId {
        let id = routes.id(method, Some(name));
        // Not what was cleaned, nor what has no number of its own: of those there is no end.
        if routes.get(id).is_some_and(|route| &*route.name == name) {
            self.routes.insert(method, name, id);
        }
        id
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.lane.set_worker(None);
        self.lane.set_thread(Tid(0), [0, 0]);
        self.lane.owner.free();
    }
}

// === impl OwnLane ===

impl Deref for OwnLane {
    type Target = Lane;

    #[inline]
    fn deref(&self) -> &Lane {
        match self {
            Self::Kept(lane) => lane,
            Self::Passing(taken) => &taken.lane,
        }
    }
}

#[cfg(all(test, not(tower_stall_loom)))]
mod tests {
    use super::*;
    use crate::cells::{Bounds, Totals};
    use crate::clock::Clock;
    use crate::outcome::Outcome;

    #[test]
    fn a_thread_keeps_its_lane_and_a_later_thread_goes_on_with_it() {
        let lanes = Arc::new(Lanes::new(32));
        let bounds = Bounds::new(&Clock::Manual(Arc::default()));
        let route = RouteId::from_bits(3);
        for _ in 0..4 {
            let (lanes, bounds) = (Arc::clone(&lanes), bounds.clone());
            let thread = std::thread::spawn(move || {
                for _ in 0..2 {
                    let lane = lanes.own(|_| {});
                    lane.cells(route).start();
                    lane.cells(route).end(&bounds, Outcome::Success, 1, 1);
                }
            });
            thread.join().unwrap();
        }
        assert_eq!(lanes.iter().count(), 1);
        let totals = Totals::read(lanes.cells(route));
        assert_eq!((totals.started, totals.ended(), totals.in_flight()), (8, 8, 0));
    }

    #[test]
    fn threads_at_once_have_lanes_of_their_own() {
        let lanes = Lanes::new(32);
        let barrier = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _lane = lanes.own(|_| {});
                    barrier.wait();
                });
            }
        });
        assert_eq!(lanes.iter().count(), 4);
    }

    #[test]
    fn a_future_dropped_while_its_thread_ends_is_still_accounted_for() {
        struct Late(Arc<Lanes>);
        impl Drop for Late {
            fn drop(&mut self) {
                self.0.own(|_| {}).cells(RouteId::from_bits(1)).start();
            }
        }
        thread_local!(static LATE: RefCell<Option<Late>> = const { RefCell::new(None) });
        let lanes = Arc::new(Lanes::new(32));
        let of_thread = Arc::clone(&lanes);
        let thread = std::thread::spawn(move || {
            LATE.with(|late| late.replace(Some(Late(Arc::clone(&of_thread)))));
            of_thread.own(|_| {}).cells(RouteId::from_bits(1)).start();
        });
        thread.join().unwrap();
        assert_eq!(Totals::read(lanes.cells(RouteId::from_bits(1))).started, 2);
    }

    #[test]
    fn lanes_of_dropped_monitors_are_let_go() {
        let held = || TAKEN.with_borrow(Vec::len);
        for _ in 0..8 {
            let lanes = Lanes::new(32);
            let _lane = lanes.own(|_| {});
        }
        assert!(held() <= 2, "{} lanes are held", held());
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use super::Owner;
    use crate::cells::histogram::add;
    use crate::sync::{AtomicBool, AtomicU64, Ordering};
    use ::loom::{sync::Arc, thread};

    /// A test that a lane handed from a thread that ended to a new one loses nothing.
    #[test]
    fn loom_a_lane_has_one_writer_at_a_time() {
        ::loom::model(|| {
            let lane = Arc::new((Owner(AtomicBool::new(false)), AtomicU64::new(0)));
            let add_if_free = |lane: &(Owner, AtomicU64)| {
                let taken = lane.0.take();
                if taken {
                    add(&lane.1, 1, Ordering::Relaxed);
                    lane.0.free();
                }
                u64::from(taken)
            };
            let other = {
                let lane = Arc::clone(&lane);
                thread::spawn(move || add_if_free(&lane))
            };
            let added = add_if_free(&lane) + other.join().unwrap();
            assert_eq!(lane.1.load(Ordering::Relaxed), added);
            assert!(added >= 1);
        });
    }
}
