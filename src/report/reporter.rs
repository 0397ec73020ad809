//! The reporter's thread: it may be slow, and nobody waits for it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::account::{held_before, is_handed_off};
use super::limit::Budgets;
use super::quota::Throttling;
use crate::board::{Board, Sample};
use crate::export::Exporter;
use crate::routes::Routes;
use crate::shared::{Finished, Shared, Sighting};
use crate::stacks::{Capture, Outcome, Resolver};
use crate::stall::{Cause, Stall};
use crate::trace::{Parent, Tracing};

/// A user's function that is told of each stall.
pub(crate) type Hook = Box<dyn Fn(&Stall) + Send + Sync>;

/// How long the reporter waits for the watchdog to have looked once more after a stall, which takes it a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it asks.
const PAUSE: Duration = Duration::from_millis(2);

pub(crate) struct Reporter {
    shared: Arc<Shared>,
    board: Arc<Board>,
    exporter: Exporter,
    hook: Option<Hook>,
    tracing: Tracing,
    budgets: Budgets,
    resolver: Resolver,
    throttling: Throttling,
    /// Finished stalls that the watchdog may still have something to say about.
    waiting: VecDeque<(Instant, Finished)>,
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
        Self {
            shared,
            board,
            exporter,
            hook,
            tracing: Tracing::current(),
            budgets: Budgets::new(reports_per_minute),
            resolver: Resolver::new(),
            throttling: Throttling::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Works until the inbox is closed. A subscriber or a recorder that panics loses what it was told, and nothing else.
    pub(crate) fn run(mut self) {
        if let Some(why) = self.shared.no_stacks.filter(|_| self.shared.stacks_wanted) {
            self.tracing.no_stacks(why);
        }
        loop {
            // Asked before the work, so that what came before the closing is done.
            let closed = self.shared.inbox.is_closed();
            if catch_unwind(AssertUnwindSafe(|| self.work(closed))).is_err() {
                self.shared.inbox.drop_one();
            }
            if closed {
                return;
            }
            if self.waiting.is_empty() {
                std::thread::park();
            } else {
                std::thread::park_timeout(PAUSE);
            }
        }
    }

    fn work(&mut self, closed: bool) {
        self.throttling.read();
        // First: the gauges of stalls in progress do not wait for a stack to become readable, which takes long at the first one.
        if self.shared.inbox.take_flush() {
            self.exporter.flush(&self.shared, &self.board);
        }
        self.tell(closed);
        if closed {
            self.exporter.flush(&self.shared, &self.board);
            self.exporter.close();
        }
    }

    fn tell(&mut self, closed: bool) {
        let shared = Arc::clone(&self.shared);
        let mut ended = false;
        while let Some(finished) = shared.inbox.next_finished() {
            self.waiting.push_back((Instant::now(), finished));
        }
        // After the finished ones: a stall that the watchdog has looked past has all its stacks here now.
        let looked = if closed { u64::MAX } else { shared.looked() };
        let mut handed_off = false;
        while let Some(capture) = shared.captures.next() {
            handed_off |= self.develop(capture);
        }
        while let Some(sighting) = shared.inbox.next_sighting() {
            self.in_progress(&sighting);
        }
        while let Some(finished) = self.next_ready(looked) {
            self.finished(finished);
            ended = true;
        }
        if ended || handed_off {
            // The gauges of stalls in progress fall at once.
            self.exporter.flush(&shared, &self.board);
        }
    }

    /// The next finished stall, once the watchdog has looked past its end.
    fn next_ready(&mut self, looked: u64) -> Option<Finished> {
        let (since, finished) = self.waiting.front()?;
        let is_ready = finished.end < looked || since.elapsed() >= PATIENCE;
        is_ready.then(|| self.waiting.pop_front()).flatten().map(|(_, finished)| finished)
    }

    /// Makes a copied stack readable. Whether it says that the poll has given its worker away.
    fn develop(&mut self, capture: Capture) -> bool {
        let resolved = self.resolver.resolve(&capture);
        let purpose = capture.purpose;
        self.shared.captures.count(if resolved.is_some() { Outcome::Captured } else { Outcome::Torn });
        let mut handed_off = false;
        if let Some(resolved) = resolved {
            // A thread that was a worker once, and gave that away, holds nobody up whatever it does.
            let is_former_worker = purpose.mark == u64::MAX && !resolved.is_on_worker;
            let sample = Sample {
                age: purpose.age + self.shared.clock.ticks(capture.later),
                asleep_in: capture.asleep_in,
                handed_off: resolved.handed_off || is_former_worker,
                lacks_lines: resolved.lacks_lines,
                descriptor: capture.descriptor.map(|descriptor| descriptor.as_str().into()),
                frames: resolved.frames.into(),
            };
            handed_off = sample.handed_off;
            if handed_off {
                self.shared.hand_off(purpose.of);
            }
            self.board.read().samples.add(purpose.of, sample);
        }
        self.shared.captures.give_back(capture.raw);
        handed_off
    }

    fn in_progress(&mut self, sighting: &Sighting) {
        let samples = self.board.read().samples.of(sighting.of).to_vec();
        if is_handed_off(sighting.evidence.as_ref(), &samples) {
            return;
        }
        let Some(stall) = Stall::of_sighting(&self.shared, sighting, &samples, self.throttling.lately()) else {
            return;
        };
        self.report(&stall, &Parent::Number(sighting.poll.span));
        self.call_hook(&stall);
    }

    fn finished(&mut self, mut finished: Finished) {
        let mut samples = self.board.read().samples.take(finished.of);
        // A signal may be answered late, when its poll was over.
        let duration = finished.end.saturating_sub(finished.poll.start);
        samples.retain(|sample| sample.age <= duration);
        let route = finished.poll.route;
        if is_handed_off(finished.evidence.as_ref(), &samples) {
            if route != Routes::UNATTRIBUTED {
                *self.board.read().handed_off.entry(route).or_default() += 1;
            }
            finished.ticks = held_before(&samples, finished.ticks);
            if finished.ticks <= finished.threshold {
                return;
            }
            // A stall up to then.
            finished.end = finished.poll.start + finished.ticks;
            samples.retain(|sample| sample.age <= finished.ticks);
        }
        let Some(stall) = Stall::of_finished(&self.shared, &finished, &samples, self.throttling.lately()) else {
            return;
        };
        {
            let mut found = self.board.read();
            let by_cause = found.stalls.entry(route).or_default();
            by_cause.entry(stall.cause).or_default().add(&self.shared.bounds, finished.ticks);
            found.collapsed.add_all(stall.method, &stall.route, &samples, finished.ticks, &self.shared.clock);
            found.keep(stall.clone());
        }
        self.report(&stall, &Parent::Kept(finished.span));
        self.call_hook(&stall);
    }

    fn report(&mut self, stall: &Stall, parent: &Parent) {
        if stall.cause == Cause::Paused {
            return;
        }
        match self.budgets.take(stall) {
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
