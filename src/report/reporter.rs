//! The reporter's thread: it may be slow, and nobody waits for it.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::limit::Budget;
use crate::board::Board;
use crate::cells::Poll;
use crate::export::Exporter;
use crate::routes::RouteId;
use crate::shared::{Finished, Shared, Sighting};
use crate::stall::{Cause, Stall};
use crate::trace::{Parent, Tracing};

/// A user's function that is told of each stall.
pub(crate) type Hook = Box<dyn Fn(&Stall) + Send + Sync>;

pub(crate) struct Reporter {
    shared: Arc<Shared>,
    board: Arc<Board>,
    exporter: Exporter,
    hook: Option<Hook>,
    reports_per_minute: u32,
    tracing: Tracing,
    budgets: HashMap<RouteId, Budget>,
    began: Instant,
}

// === impl Reporter ===

impl Reporter {
    pub(crate) fn new(
        shared: Arc<Shared>,
        board: Arc<Board>,
        exporter: Exporter,
        hook: Option<Hook>,
        reports_per_minute: u32,
    ) -> Self {
        let (tracing, began) = (Tracing::current(), Instant::now());
        Self { shared, board, exporter, hook, reports_per_minute, tracing, budgets: HashMap::new(), began }
    }

    /// Works until the inbox is closed. A subscriber or a recorder that panics loses what it was told, and nothing else.
    pub(crate) fn run(mut self) {
        loop {
            // Asked before the work, so that what came before the closing is done.
            let closed = self.shared.inbox.is_closed();
            if catch_unwind(AssertUnwindSafe(|| self.work(closed))).is_err() {
                self.shared.inbox.drop_one();
            }
            if closed {
                return;
            }
            std::thread::park();
        }
    }

    fn work(&mut self, closed: bool) {
        self.tell();
        if self.shared.inbox.take_flush() || closed {
            self.exporter.flush(&self.shared, &self.board);
        }
        if closed {
            self.exporter.close();
        }
    }

    fn tell(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut ended = false;
        while let Some(sighting) = shared.inbox.next_sighting() {
            self.in_progress(&sighting);
        }
        while let Some(finished) = shared.inbox.next_finished() {
            self.finished(finished);
            ended = true;
        }
        if ended {
            // The gauges of stalls in progress fall at once.
            self.exporter.flush(&shared, &self.board);
        }
    }

    fn in_progress(&mut self, sighting: &Sighting) {
        let Some(stall) = Stall::of_sighting(&self.shared, sighting) else { return };
        self.report(&stall, sighting.poll, &Parent::Number(sighting.poll.span));
        self.call_hook(&stall);
    }

    fn finished(&mut self, finished: Finished) {
        let Some(stall) = Stall::of_finished(&self.shared, &finished) else { return };
        {
            let mut found = self.board.read();
            let by_cause = found.stalls.entry(finished.poll.route).or_default();
            by_cause.entry(stall.cause).or_default().add(&self.shared.bounds, finished.ticks);
            found.keep(stall.clone());
        }
        self.report(&stall, finished.poll, &Parent::Kept(finished.span));
        self.call_hook(&stall);
    }

    fn report(&mut self, stall: &Stall, poll: Poll, parent: &Parent) {
        if stall.cause == Cause::Paused {
            return;
        }
        let (limit, now) = (self.reports_per_minute, self.began.elapsed());
        let budget = self.budgets.entry(poll.route).or_insert_with(|| Budget::new(limit, now));
        match budget.take(limit, now) {
            Some(suppressed) => self.tracing.report(stall, parent, suppressed),
            None => self.board.read().suppressed += 1,
        }
    }

    fn call_hook(&self, stall: &Stall) {
        let Some(hook) = &self.hook else { return };
        if catch_unwind(AssertUnwindSafe(|| hook(stall))).is_err() {
            self.board.read().hook_panics += 1;
        }
    }
}

// === impl Stall ===

impl Stall {
    fn of_finished(shared: &Shared, finished: &Finished) -> Option<Self> {
        let mut stall = Self::new(shared, finished.poll, finished.ticks)?;
        stall.threshold = shared.clock.duration(finished.threshold);
        stall.worker = finished.worker;
        stall.io_starved = finished.io_starved;
        stall.rescued = finished.rescued;
        stall.held_up = finished.held_up;
        Some(stall)
    }

    pub(crate) fn of_sighting(shared: &Shared, sighting: &Sighting) -> Option<Self> {
        let mut stall = Self::new(shared, sighting.poll, sighting.ticks)?;
        stall.in_progress = true;
        stall.worker = sighting.worker;
        stall.held_up = sighting.held_up;
        stall.io_starved = sighting.io_starved;
        stall.rescued = sighting.rescued;
        Some(stall)
    }

    fn new(shared: &Shared, poll: Poll, ticks: u64) -> Option<Self> {
        let route = shared.routes.get(poll.route)?;
        Some(Self {
            method: route.method,
            route: Arc::clone(&route.name),
            phase: poll.phase,
            duration: shared.clock.duration(ticks),
            threshold: shared.clock.duration(shared.threshold()),
            in_progress: false,
            cause: Cause::Unknown,
            syscall: None,
            worker: None,
            held_up: 0,
            io_starved: false,
            rescued: false,
            frames: Vec::new(),
        })
    }
}
