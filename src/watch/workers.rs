//! Workers that are held by something that nobody measures: a task without `instrument`, a block inside the runtime itself.
//!
//! tokio counts a worker's parks and busy time, but only when it parks and at every 61st task. So counters that stand still mean one
//! long poll, or many short ones in a row. What is certain is a thread that was asleep in one system call all the time and
//! never on a core; a thread that runs must stand still for much longer until it is believed.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::RuntimeMetrics;

use super::examiner::Examiner;
use crate::evidence::Look;
use crate::os::{self, Moment, Turns};
use crate::own::Own;
use crate::shared::{Shared, Stalled, Unattributed};
use crate::stacks::Target;

/// A worker that runs is believed to be held when its counters stood still for this many thresholds, and for this long. With polls
/// of 1 ms, a healthy worker's were seen to stand still for 79 ms.
const RUNNING: u64 = 20;
const RUNNING_AT_LEAST: Duration = Duration::from_millis(500);

pub(super) struct Workers {
    shared: Arc<Shared>,
    metrics: RuntimeMetrics,
    seats: Box<[Seat]>,
}

/// What the last looks at one worker found.
#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    signs: Signs,
    /// Since when these stand still, in ticks.
    since: u64,
    /// What its thread does without a break, if it is asleep, and since when.
    asleep: Option<(Moment, Turns)>,
    asleep_since: u64,
    /// The age at which it is looked at again.
    due: u64,
}

/// Signs of life of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Signs {
    /// Parks and unparks, and nanoseconds of busy time.
    counters: [u64; 2],
    /// Measured polls on its thread.
    activity: u64,
}

// === impl Workers ===

impl Workers {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let metrics = shared.runtime.metrics();
        let seats = vec![Seat::default(); shared.unattributed.len()].into();
        Self { shared, metrics, seats }
    }

    /// Looks at all workers. `true`: one of them may be held, so that it is worth to look again soon.
    pub(super) fn look(&mut self, examiner: &mut Examiner) -> bool {
        let now = self.shared.clock.now();
        let mut suspicious = false;
        for (worker, (seat, held)) in self.seats.iter_mut().zip(&*self.shared.unattributed).enumerate() {
            let Some(counters) = counters(&self.metrics, worker) else { continue };
            let lanes = self.shared.lanes.iter().filter(|lane| lane.worker() == Some(worker));
            let activity = lanes.clone().map(|lane| lane.slot.activity()).fold(0, u64::wrapping_add);
            let is_measured = lanes.clone().any(|lane| lane.slot.read().is_some());
            let is_parked = counters[0] % 2 == 1;
            let signs = Signs { counters, activity };
            if is_parked || is_measured || seat.signs != signs {
                *seat = Seat { signs, since: now, due: examiner.suspect(), ..Seat::default() };
                held.end(&self.shared, worker, now);
            } else {
                // Where two threads seem to be this worker, nobody can tell which one is.
                let mut threads = lanes.filter_map(|lane| lane.thread());
                let thread = threads.next().filter(|_| threads.next().is_none());
                seat.watch(&self.shared, worker, held, thread, examiner, now);
            }
            suspicious |= !is_parked && !is_measured;
        }
        suspicious
    }
}

// === impl Seat ===

impl Seat {
    fn watch(
        &mut self,
        shared: &Shared,
        worker: usize,
        held: &Unattributed,
        thread: Option<(os::Tid, [u64; 2])>,
        examiner: &mut Examiner,
        now: u64,
    ) {
        let age = now.saturating_sub(self.since);
        if age < self.due {
            return;
        }
        // Of a worker whose thread is not known, or has ended with its runtime, nothing can be said.
        let Some(seen) = thread.and_then(|(thread, bounds)| examiner.see(thread, bounds, now)) else {
            return held.end(shared, worker, now);
        };
        if self.has_woken(&seen, now) && held.start().is_some() {
            held.end(shared, worker, now);
            // What has been told of is not told of again, as part of something longer.
            (self.since, self.due) = (now, examiner.suspect());
            return;
        }
        // A thread that sleeps is looked at each time, one that runs more and more rarely.
        self.due = if self.asleep.is_some() || held.start().is_some() { age } else { age.saturating_mul(2) };
        if held.start().is_none() {
            let Some(since) = self.held_since(shared, now) else { return };
            held.begin(since);
        }
        if let Some(stalled) = Stalled::unattributed(worker, held, now) {
            examiner.go_on(&stalled, Some(seen));
        }
    }

    /// Notes what the thread does. Whether it was asleep up to now and is not any more, or not in the same call.
    fn has_woken(&mut self, (target, _): &(Target, Look), now: u64) -> bool {
        let asleep = (target.moment != Moment::Running).then_some((target.moment, target.turns));
        if asleep.is_some() && asleep == self.asleep {
            return false;
        }
        let was_asleep = self.asleep.is_some();
        (self.asleep, self.asleep_since) = (asleep, now);
        was_asleep
    }

    /// Since when the worker is held, if that is beyond doubt.
    fn held_since(&self, shared: &Shared, now: u64) -> Option<u64> {
        let threshold = shared.threshold();
        let (since, least) = if self.asleep.is_some() {
            (self.asleep_since, threshold)
        } else {
            (self.since, threshold.saturating_mul(RUNNING).max(shared.clock.ticks(RUNNING_AT_LEAST)))
        };
        (now.saturating_sub(since) > least).then_some(since)
    }
}

/// What tokio has counted for a worker: parks and unparks, and nanoseconds.
#[cfg(target_has_atomic = "64")]
pub(super) fn counters(metrics: &RuntimeMetrics, worker: usize) -> Option<[u64; 2]> {
    let busy = |worker| u64::try_from(metrics.worker_total_busy_duration(worker).as_nanos()).unwrap_or(u64::MAX);
    (worker < metrics.num_workers()).then(|| [metrics.worker_park_unpark_count(worker), busy(worker)])
}

#[cfg(not(target_has_atomic = "64"))]
pub(super) fn counters(_: &RuntimeMetrics, _: usize) -> Option<[u64; 2]> {
    None
}

/// Meets workers that have polled nothing of ours yet, so that it is known which thread they are should something hold them: by
/// small tasks that idle workers steal from this one. Called by a task in the runtime, eight times a second: in the first two seconds
/// it is done each time, then every five seconds.
pub(crate) fn meet_workers(shared: &Arc<Shared>, round: u32) {
    if round >= 16 && round % 40 != 0 {
        return;
    }
    drop(Own::of(shared));
    let is_known = |worker| shared.lanes.iter().any(|lane| lane.worker() == Some(worker));
    let unknown = (0..shared.unattributed.len()).filter(|&worker| !is_known(worker)).count();
    for _ in 0..unknown {
        let shared = Arc::clone(shared);
        let _detached = tokio::spawn(async move { drop(Own::of(&shared)) });
    }
}
