//! A thread's own end of a monitor: its lane, beside it all else that a poll reads, and the records of requests that are over.
//!
//! A thread makes it once. What is measured holds it by reference, so a poll finds everything by one comparison: is this the thread
//! that it was last polled on?

mod idle;
mod record;

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Weak};

pub(crate) use self::idle::{keep, record};
pub(crate) use self::record::{Account, Record};

use crate::cells::Lane;
use crate::os::Tid;
use crate::routes::{Known, Method, RouteId, Routes};
use crate::shared::Shared;
use crate::stacks::stack_bounds;
use crate::sync::{AtomicBool, Ordering};

#[derive(Debug)]
pub(crate) struct Own {
    lane: Arc<Lane>,
    /// Whether the lane may be another's already.
    given_back: AtomicBool,
    shared: Weak<Shared>,
}

/// Kept by the thread until it ends.
#[derive(Debug)]
struct Kept {
    /// The monitor's address. No other can have it, as `own` keeps the memory.
    of: *const Shared,
    own: Arc<Own>,
    routes: Known,
}

thread_local! {
    /// This thread's number, 0 before it has one. Nothing is to be dropped, so it is there to the very end of the thread.
    static HERE: Cell<u64> = const { Cell::new(0) };
    static KEPT: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
}

// === impl Own ===

impl Own {
    /// This thread's end of `shared`; one for the moment where the thread is ending and has let go of those it kept.
    pub(crate) fn of(shared: &Arc<Shared>) -> Arc<Self> {
        let own = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            match kept.iter().find(|kept| kept.of == Arc::as_ptr(shared)) {
                Some(kept) => Arc::clone(&kept.own),
                None => Kept::add(&mut kept, shared),
            }
        });
        own.unwrap_or_else(|_| Arc::new(Self::new(shared)))
    }

    #[cold]
    fn new(shared: &Arc<Shared>) -> Self {
        let lane = shared.lanes.take();
        lane.set_here(here());
        Self { lane, given_back: AtomicBool::new(false), shared: Arc::downgrade(shared) }
    }

    /// The monitor, unless it is gone: then nobody reads what is measured.
    pub(crate) fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.upgrade()
    }

    /// The number of a pair, from this thread's own table where it is there.
    pub(crate) fn route(&self, routes: &Routes, method: Method, name: &str) -> RouteId {
        let known = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            let kept = kept.iter_mut().find(|kept| Arc::ptr_eq(&kept.own.lane, &self.lane))?;
            Some(kept.route(routes, method, name))
        });
        known.ok().flatten().unwrap_or_else(|| routes.id(method, Some(name)))
    }

    fn give_back(&self) {
        if !self.given_back.swap(true, Ordering::Relaxed) {
            self.lane.free();
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// This thread's number, 0 while nothing was measured on it.
#[inline]
pub(crate) fn thread() -> usize {
    HERE.get() as usize
}

/// Whether the lane is this thread's, and not yet given back.
#[inline(always)]
pub(crate) fn is_here(lane: &Lane) -> bool {
    lane.is_of(HERE.get())
}

// === impl Kept ===

impl Kept {
    #[cold]
    fn add(kept: &mut Vec<Self>, shared: &Arc<Shared>) -> Arc<Own> {
        // Those of monitors that are gone are only in the way.
        kept.retain(|kept| kept.own.shared.strong_count() > 0);
        idle::renew();
        let own = Arc::new(Own::new(shared));
        shared.locate(&own.lane);
        own.lane.set_thread(Tid::current(), stack_bounds());
        kept.push(Self { of: Arc::as_ptr(shared), own: Arc::clone(&own), routes: Known::default() });
        own
    }

    fn route(&mut self, routes: &Routes, method: Method, name: &str) -> RouteId {
        self.routes.get(method, name).unwrap_or_else(|| self.learn(routes, method, name))
    }

    #[cold]
    fn learn(&mut self, routes: &Routes, method: Method, name: &str) -> RouteId {
        let id = routes.id(method, Some(name));
        // Not what was cleaned, nor what has no number of its own: of those there is no end.
        if routes.is_named(id, name) {
            self.routes.insert(method, name, id);
        }
        id
    }
}

impl Drop for Kept {
    /// The thread ends: a future that it polled last may outlive it, and must not write to a lane that is another thread's by then.
    fn drop(&mut self) {
        idle::clear();
        self.own.give_back();
    }
}

fn here() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    if HERE.get() == 0 {
        HERE.set(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    }
    HERE.get()
}

#[cfg(all(test, not(tower_stall_loom)))]
mod tests {
    use super::*;
    use crate::cells::Totals;
    use crate::clock::Clock;
    use crate::outcome::Outcome;
    use crate::shared::Stacks;

    pub(super) fn shared() -> Arc<Shared> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let stacks = Stacks { taken: false, signals: false };
        Arc::new(Shared::new(Clock::new(), runtime.handle().clone(), "test", 8, None, stacks))
    }

    fn route(shared: &Shared) -> RouteId {
        shared.routes.id(Method::of(&http::Method::GET), Some("/a"))
    }

    #[test]
    fn a_thread_keeps_its_lane_and_a_later_thread_goes_on_with_it() {
        let shared = shared();
        let route = route(&shared);
        for _ in 0..4 {
            let shared = Arc::clone(&shared);
            let thread = std::thread::spawn(move || {
                for _ in 0..2 {
                    let own = Own::of(&shared);
                    own.lane.cells(route).start();
                    own.lane.cells(route).end(&own.lane.common.bounds, Outcome::Success, 1, 1);
                }
            });
            thread.join().unwrap();
        }
        assert_eq!(shared.lanes.iter().count(), 1);
        let totals = Totals::read(shared.lanes.cells(route));
        assert_eq!((totals.started, totals.ended(), totals.in_flight()), (8, 8, 0));
    }

    #[test]
    fn threads_at_once_have_lanes_of_their_own() {
        let shared = shared();
        let barrier = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let own = Own::of(&shared);
                    barrier.wait();
                    assert!(is_here(&own.lane));
                });
            }
        });
        assert_eq!(shared.lanes.iter().count(), 4);
    }

    #[test]
    fn a_future_dropped_while_its_thread_ends_is_still_accounted_for() {
        struct Late(Arc<Shared>);
        impl Drop for Late {
            fn drop(&mut self) {
                Own::of(&self.0).lane.cells(route(&self.0)).start();
            }
        }
        thread_local!(static LATE: RefCell<Option<Late>> = const { RefCell::new(None) });
        let shared = shared();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            LATE.with(|late| late.replace(Some(Late(Arc::clone(&of_thread)))));
            Own::of(&of_thread).lane.cells(route(&of_thread)).start();
        });
        thread.join().unwrap();
        assert_eq!(Totals::read(shared.lanes.cells(route(&shared))).started, 2);
        let lane = shared.lanes.take();
        assert_eq!(shared.lanes.iter().count(), 1, "the thread gave its lane back, and so did the end of it");
        drop(lane);
    }

    #[test]
    fn what_outlives_its_thread_does_not_write_to_the_next_ones_lane() {
        let shared = shared();
        let of_thread = Arc::clone(&shared);
        let gone = std::thread::spawn(move || Own::of(&of_thread)).join().unwrap();
        assert!(!is_here(&gone.lane));
        let here = Own::of(&shared);
        assert!(Arc::ptr_eq(&gone.lane, &here.lane), "the lane goes on");
        assert!(is_here(&here.lane));
        drop(gone);
        let other = Arc::clone(&shared);
        let other = std::thread::spawn(move || Arc::as_ptr(&Own::of(&other).lane).addr()).join().unwrap();
        assert_ne!(other, Arc::as_ptr(&here.lane).addr(), "it was given back once");
    }

    #[test]
    fn monitors_that_are_gone_are_let_go() {
        let held = || KEPT.with_borrow(Vec::len);
        for _ in 0..8 {
            let _own = Own::of(&shared());
        }
        assert!(held() <= 2, "{} are held", held());
    }
}
