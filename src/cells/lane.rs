//! One lane per thread: its slot and its cells. Lanes are never removed; that of a thread that ended goes to the next new one.

use std::sync::{Arc, OnceLock};

use super::RouteCells;
use super::histogram::{Bounds, add};
use super::slot::Slot;
use super::watched::Watched;
use crate::alarm::Alarm;
use crate::clock::Clock;
use crate::limits::Limits;
use crate::os::Tid;
use crate::routes::RouteId;
use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// What one thread writes, and no other, and beside it all else that its polls read.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Lane {
    /// The thread that has the lane, by a number of ours that never comes back.
    here: AtomicU64,
    pub(crate) common: Common,
    pub(crate) slot: Slot,
    requests_started: AtomicU64,
    requests_ended: AtomicU64,
    /// The worker's index in the watched runtime plus one, 0 for other threads.
    worker: AtomicU64,
    /// The thread's number in the kernel, 0 while nobody has the lane.
    thread: AtomicU64,
    /// The lowest address of the thread's stack, and the first one above it; 0 where they are not known.
    stack: [AtomicU64; 2],
    routes: Box<[OnceLock<Arc<RouteCells>>]>,
    owner: Owner,
    pub(crate) watched: Watched,
}

/// What all lanes of a monitor have in common.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) clock: Clock,
    pub(crate) bounds: Bounds,
    pub(crate) alarm: Arc<Alarm>,
    pub(crate) limits: Arc<Limits>,
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
    routes: usize,
    common: Common,
    head: OnceLock<Box<Node>>,
}

#[derive(Debug)]
struct Node {
    lane: Arc<Lane>,
    next: OnceLock<Box<Node>>,
}

// === impl Lane ===

impl Lane {
    const NOBODY: u64 = u64::MAX;

    fn new(routes: usize, common: Common) -> Self {
        Self {
            here: AtomicU64::new(Self::NOBODY),
            common,
            slot: Slot::default(),
            requests_started: AtomicU64::new(0),
            requests_ended: AtomicU64::new(0),
            worker: AtomicU64::new(0),
            thread: AtomicU64::new(0),
            stack: [AtomicU64::new(0), AtomicU64::new(0)],
            routes: (0..routes).map(|_| OnceLock::new()).collect(),
            owner: Owner(AtomicBool::new(true)),
            watched: Watched::default(),
        }
    }

    /// Whether the thread of this number has it.
    #[inline(always)]
    pub(crate) fn is_of(&self, thread: u64) -> bool {
        self.here.load(Ordering::Relaxed) == thread
    }

    /// The thread of this number has it from now on.
    pub(crate) fn set_here(&self, thread: u64) {
        self.here.store(thread, Ordering::Relaxed);
    }

    /// The cells of a route, made when the thread first meets it.
    #[inline]
    pub(crate) fn cells(&self, route: RouteId) -> &Arc<RouteCells> {
        self.routes[route.index()].get_or_init(Arc::default)
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

    /// Gives the lane back, for the next thread.
    pub(crate) fn free(&self) {
        self.here.store(Self::NOBODY, Ordering::Relaxed);
        self.set_worker(None);
        self.set_thread(Tid(0), [0, 0]);
        self.owner.free();
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
    pub(crate) fn new(routes: usize, common: Common) -> Self {
        Self { routes, common, head: OnceLock::new() }
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

    /// A lane for a thread that has none: free it at the end.
    pub(crate) fn take(&self) -> Arc<Lane> {
        match self.iter().find(|lane| lane.owner.take()) {
            Some(free) => Arc::clone(free),
            None => self.push(),
        }
    }

    fn push(&self) -> Arc<Lane> {
        let lane = Arc::new(Lane::new(self.routes, self.common.clone()));
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
