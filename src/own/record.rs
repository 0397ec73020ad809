//! What is known of one request, or one instrumented task. It stays where it is, however often future and body move, and is used
//! again for another one.

use std::sync::Arc;

use super::Own;
use crate::cells::{Lane, RouteCells};
use crate::outcome::Outcome;
use crate::routes::{Method, RouteId, Routes};
use crate::shared::Shared;
use crate::wake::Wakes;

/// Aligned so that no two threads write to one cache line; the account first, so that both have one address.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Record {
    pub(crate) account: Account,
    pub(crate) wakes: Wakes,
    /// The monitor's address, which no other has while the account holds the end of it.
    of: usize,
}

/// Times are in ticks.
#[derive(Debug)]
pub(crate) struct Account {
    /// That of the thread it was last polled on.
    pub(crate) lane: Arc<Lane>,
    /// Keeps the lane from going to another thread.
    pub(crate) own: Arc<Own>,
    /// Those of its route on that thread, kept so that a poll need not look them up.
    pub(crate) cells: Arc<RouteCells>,
    pub(crate) route: RouteId,
    /// That of the request, or `TASK`.
    pub(crate) method: Method,
    /// How the request counts if it is dropped now.
    pub(crate) outcome: Outcome,
    /// How it counts once its answer is complete.
    pub(crate) complete: Outcome,
    /// Bytes of the answer that are still to come, `u64::MAX` where that is not known.
    pub(crate) to_come: u64,
    /// When it began.
    pub(crate) start: u64,
    /// Sum of its polls.
    pub(crate) busy: u64,
    /// When the poll began that goes on, or was the last one; marked where that is inside another one.
    pub(crate) poll_start: u64,
    /// When its last poll ended.
    pub(crate) polled_until: u64,
    /// Its `tracing` span, 0 for none.
    pub(crate) span: u64,
}

// === impl Record ===

impl Record {
    /// One of no route in particular.
    #[cold]
    pub(crate) fn new(own: Arc<Own>) -> Box<Self> {
        let route = Routes::UNATTRIBUTED;
        let (of, wakes) = (own.shared.as_ptr().addr(), Wakes::new(own.lane.common.clock.clone()));
        let account = Account {
            cells: Arc::clone(own.lane.cells(route)),
            lane: Arc::clone(&own.lane),
            own,
            route,
            method: Method::TASK,
            outcome: Outcome::Cancelled,
            complete: Outcome::Cancelled,
            to_come: u64::MAX,
            start: 0,
            busy: 0,
            poll_start: 0,
            polled_until: 0,
            span: 0,
        };
        Box::new(Self { account, wakes, of })
    }

    #[inline]
    pub(super) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        self.of == Arc::as_ptr(shared).addr()
    }
}

// === impl Account ===

impl Account {
    /// From now on it is one of `route`.
    #[inline]
    pub(crate) fn set_route(&mut self, route: RouteId) {
        if self.route != route {
            self.route = route;
            self.cells = Arc::clone(self.lane.cells(route));
        }
    }

    /// Goes on on this thread, unless the monitor is gone.
    #[cold]
    pub(crate) fn follow(&mut self) -> bool {
        let Some(shared) = self.own.shared() else { return false };
        self.own = Own::of(&shared);
        self.lane = Arc::clone(&self.own.lane);
        self.cells = Arc::clone(self.lane.cells(self.route));
        true
    }
}
