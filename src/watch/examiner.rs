//! A close look at a poll that may become a stall: what its thread does, its stack, and whether a report is due.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::RuntimeMetrics;

use super::driver::SUSPECT;
use super::watchdog::LONGEST_TICK;
use super::workers::counters;
use crate::cells::{Lane, Poll};
use crate::evidence::Look;
use crate::os::{self, Moment, Tid};
use crate::routes::Routes;
use crate::shared::{Shared, Sighting, Stalled};
use crate::stacks::{Capturer, Purpose, Target};

/// A stall in progress is reported at this age, or at the threshold if that is longer, and each time its age has doubled.
const FIRST_REPORT: Duration = Duration::from_secs(1);
/// A stack is taken again when the poll's age has doubled, but no later than after this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Examiner {
    shared: Arc<Shared>,
    capturer: Capturer,
    /// There are stacks that the reporter was not told of.
    captured: bool,
    metrics: RuntimeMetrics,
}

impl Examiner {
    pub(super) fn new(shared: Arc<Shared>, capturer: Capturer) -> Self {
        let metrics = shared.runtime.metrics();
        Self { shared, capturer, captured: false, metrics }
    }

    /// Looks at a measured poll, from an age on at which one just past the threshold will have a cause and a line, too.
    pub(super) fn examine(&mut self, lane: &Lane, poll: Poll, age: u64) {
        if age < self.suspect() {
            return;
        }
        let stalled = Stalled::of_lane(lane, poll, age);
        let seen = lane.thread().and_then(|(thread, bounds)| self.see(thread, bounds, poll.start + age));
        // What was seen is not this poll's if it has ended meanwhile.
        if lane.slot.read() == Some(poll) {
            self.go_on(&stalled, seen);
        }
    }

    /// What a thread does now.
    pub(super) fn see(&self, thread: Tid, bounds: [u64; 2], now: u64) -> Option<(Target, Look)> {
        let turns = os::turns(thread)?;
        let (moment, cpu) = (os::moment(thread)?, os::cpu_time(thread)?);
        let asleep_in = match moment {
            Moment::Asleep(asleep) => Some(asleep.call),
            Moment::Running => None,
        };
        let look = Look { at: self.shared.clock.duration(now), cpu, waited: turns.waited, asleep_in };
        Some((Target { thread, bounds, moment, turns }, look))
    }

    /// Notes what was seen, takes the stack, and has it reported, if that is due.
    pub(super) fn go_on(&mut self, stalled: &Stalled<'_>, seen: Option<(Target, Look)>) {
        let watched = stalled.watched;
        watched.begin(stalled.poll.start, self.shared.clock.ticks(FIRST_REPORT));
        let report = stalled.age > self.shared.threshold() && watched.take_report(stalled.age);
        if let Some((target, look)) = seen {
            let is_measured = stalled.poll.route != Routes::UNATTRIBUTED;
            let worker = stalled.worker.filter(|_| is_measured);
            watched.note(stalled.poll.start, &look, worker.and_then(|worker| counters(&self.metrics, worker)));
            self.capture_if_due(stalled, &target, report);
        }
        if report && !watched.is_handed_off(stalled.poll.start) {
            self.shared.inbox.sighting(Sighting::of(&self.shared, stalled));
        }
    }

    fn capture_if_due(&mut self, stalled: &Stalled<'_>, target: &Target, report: bool) {
        let (watched, age) = (stalled.watched, stalled.age);
        let asleep = matches!(target.moment, Moment::Asleep(_));
        let is_due = age >= self.first_capture() && watched.is_capture_due(age, asleep);
        if self.shared.no_stacks.is_some() || !(report || is_due) {
            return;
        }
        let shared = &self.shared;
        let purpose = Purpose { of: stalled.of, age, mark: stalled.poll.mark };
        let is_taken = self.capturer.capture(&shared.captures, purpose, target, |of| shared.goes_on(of));
        self.captured |= is_taken;
        // One that was torn, or has not answered, is tried again at the next look.
        if is_taken || !(asleep || shared.stack_signals) {
            watched.captured(asleep, age + age.min(shared.clock.ticks(LONGEST_PAUSE)));
        }
    }

    /// Takes in what a signal has brought since the last look.
    pub(super) fn collect(&mut self) {
        let shared = &self.shared;
        self.captured |= self.capturer.collect(&shared.captures, |subject| shared.goes_on(subject));
    }

    /// Whether stacks were taken since this was last asked.
    pub(super) fn take_captured(&mut self) -> bool {
        std::mem::take(&mut self.captured)
    }

    /// From this age on a poll is looked at, in ticks.
    pub(super) fn suspect(&self) -> u64 {
        self.shared.clock.ticks(SUSPECT).min(self.shared.threshold() / 2)
    }

    /// The age at which a poll's stack is first taken, in ticks: at the last look before the threshold.
    fn first_capture(&self) -> u64 {
        let threshold = self.shared.threshold();
        threshold.saturating_sub(self.shared.clock.ticks(LONGEST_TICK)).max(threshold / 2)
    }
}
