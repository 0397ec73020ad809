//! The state machine that decides whether unmeasured code occupies a worker.
//!
//! Tokio updates the counters of a worker when the worker parks, and every 61 polls (the default of
//! [`event_interval`]). Counters that do not change therefore mean one long poll, or a batch of
//! shorter ones:
//!
//! - A thread that was blocked in one system call all the time, and never on-CPU, is certain.
//! - A thread that runs is believed after a longer time, and its stall is forgotten again if the
//!   worker then goes on without having parked: that may be a batch.
//! - While another worker is parked, the queue of this one is empty, so that a shorter time is
//!   enough: the other would have stolen what waits there. A worker that goes on with another task
//!   after that has run one long poll. If its counters change, it has run a batch nevertheless: of a
//!   task that yields, and is the only one.
//!
//! [`event_interval`]: tokio::runtime::Builder::event_interval

use std::time::Duration;

use crate::os::{Clock, SchedStat, ThreadState};
use crate::shard::ThreadSample;

/// The polls between two updates of the counters of a worker that does not park.
pub(super) const POLLS_PER_BATCH: u64 = 61;
/// A running worker is occupied if its counters have not changed for this many thresholds, and for
/// this long; the times are longer on a runtime with more than `FEW_WORKERS` workers, because the
/// monitor's own tasks, whose polls are evidence against it, come by less often.
const RUNNING: (u64, Duration) = (20, Duration::from_millis(500));
const FEW_WORKERS: u64 = 8;
/// The same while another worker is parked.
const RUNNING_BESIDE_IDLE: (u64, Duration) = (8, Duration::from_millis(200));

/// What the latest scans found of one worker. Times are in ticks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WorkerState {
    activity: WorkerActivity,
    /// Since when `activity` has not changed.
    unchanged_since: u64,
    /// When another worker was parked at a scan since then, for the last time.
    idle_neighbor_at: u64,
    /// The first and the last sample of the thread since then.
    samples: Option<[ThreadSample; 2]>,
    blocked: Option<Blocked>,
    /// Whether the worker was found occupied by what it was blocked in, which is certain.
    is_certain: bool,
    /// What the thread was blocked in when it was found outside the runtime, while no thread was
    /// driving the runtime.
    outside_runtime: Option<(ThreadState, SchedStat)>,
    /// How long `activity` must be unchanged before the thread is sampled again.
    next_sample: u64,
}

/// What a thread has been blocked in without interruption, and since when.
#[derive(Clone, Copy, Debug)]
struct Blocked {
    observed: (ThreadState, SchedStat),
    since: u64,
    sample: ThreadSample,
}

/// Signs of activity of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WorkerActivity {
    /// Parks and unparks, and busy time.
    pub(super) counters: [u64; 2],
    /// Changes with every measured poll on the worker's thread.
    pub(super) polls: u64,
    /// Changes with every poll of the monitor's own tasks on the worker.
    pub(super) own_polls: u64,
}

/// How long a worker must have been inactive. Times are in ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkerLimits {
    /// Before its thread is sampled.
    pub(super) suspect: u64,
    /// Before it is occupied, if its thread is blocked.
    pub(super) blocked: u64,
    /// Before it is occupied, if its thread runs.
    pub(super) running: u64,
    /// The same, if another worker has been parked meanwhile.
    pub(super) running_beside_idle: u64,
    /// Longer than a batch without a stall takes.
    pub(super) batch: u64,
    /// The same as a duration.
    pub(super) batch_time: Duration,
}

/// One sample of a worker's thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkerSample {
    pub(super) observed: (ThreadState, SchedStat),
    pub(super) sample: ThreadSample,
}

/// What the activity of a worker means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    None,
    /// It has polled, parked, or is inside a measured poll.
    Made {
        /// Whether the time since the last progress may have been a batch of short polls.
        may_be_batch: bool,
        /// What its thread was blocked in without interruption when it was sampled last.
        blocked_in: Option<(ThreadState, SchedStat)>,
    },
}

/// What the latest sample of a worker means.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transition {
    /// Nothing: it is not known to be occupied.
    Wait,
    /// It has been occupied since this moment, at which or shortly after which this sample was
    /// taken.
    Occupied { since: u64, first_sample: Option<ThreadSample> },
    /// It is still occupied.
    StillOccupied,
    /// It is not occupied any more.
    Free,
}

// === impl WorkerState ===

impl WorkerState {
    /// Records the activity of a worker.
    pub(super) fn progress(
        &mut self,
        activity: WorkerActivity,
        is_idle_or_measured: bool,
        limits: WorkerLimits,
        now: u64,
    ) -> Progress {
        if !is_idle_or_measured && self.activity == activity {
            return Progress::None;
        }
        let ([parks, busy], [parks_before, busy_before]) =
            (activity.counters, self.activity.counters);
        let is_one_poll = busy == busy_before && self.was_long_beside_idle(limits);
        let may_be_batch =
            parks == parks_before && !is_one_poll && !self.is_beyond_doubt(limits, now);
        let progress = Progress::Made {
            may_be_batch,
            blocked_in: self.blocked.map(|blocked| blocked.observed),
        };
        self.activity = activity;
        self.start_over(limits, now);
        progress
    }

    /// Records that the thread is blocked outside the runtime.
    pub(super) fn set_outside_runtime(&mut self) {
        self.outside_runtime = self.blocked.map(|blocked| blocked.observed);
    }

    /// Returns what the thread is blocked in outside the runtime, if it is.
    pub(super) fn outside_runtime(&self) -> Option<(ThreadState, SchedStat)> {
        self.outside_runtime
    }

    /// Starts over, because the thread has gone on.
    pub(super) fn start_over(&mut self, limits: WorkerLimits, now: u64) {
        *self = Self {
            activity: self.activity,
            unchanged_since: now,
            next_sample: limits.suspect,
            ..Self::default()
        };
    }

    /// Records whether another worker is parked at this scan.
    pub(super) fn set_idle_neighbor(&mut self, is_idle: bool, now: u64) {
        if is_idle {
            self.idle_neighbor_at = now;
        }
    }

    /// Returns whether the worker has made no progress for long while another one was parked.
    fn was_long_beside_idle(&self, limits: WorkerLimits) -> bool {
        self.idle_neighbor_at.saturating_sub(self.unchanged_since) >= limits.running_beside_idle
    }

    /// Returns since when the worker has made no progress.
    pub(super) fn unchanged_since(&self) -> u64 {
        self.unchanged_since
    }

    /// Returns whether the worker has made no progress for so long that its thread is to be
    /// sampled now.
    pub(super) fn is_sample_due(&self, now: u64) -> bool {
        now.saturating_sub(self.unchanged_since) >= self.next_sample
    }

    /// Returns whether an occupied worker is occupied beyond doubt, so that the stall is shown while
    /// it is in progress.
    ///
    /// The time for which the host has kept the thread from running does not count: on a busy host
    /// any batch takes long. It is not known of a thread that is not known.
    pub(super) fn is_beyond_doubt(&self, limits: WorkerLimits, now: u64) -> bool {
        let is_long = match self.samples {
            Some([first, last]) => {
                let known = first.run_delay.zip(last.run_delay);
                let run_delay =
                    known.map_or(Duration::ZERO, |(first, last)| last.saturating_sub(first));
                last.at.saturating_sub(first.at).saturating_sub(run_delay) > limits.batch_time
            }
            None => now.saturating_sub(self.unchanged_since) > limits.batch,
        };
        self.is_certain || is_long
    }

    /// Records a sample of the thread of an inactive worker, and decides. `None` means that the
    /// thread is not known.
    pub(super) fn next(
        &mut self,
        sample: Option<WorkerSample>,
        is_occupied: bool,
        limits: WorkerLimits,
        now: u64,
    ) -> Transition {
        if self.has_resumed(sample, now) && is_occupied && self.is_certain {
            // What has been reported is not reported again as a part of something longer.
            self.start_over(limits, now);
            return Transition::Free;
        }
        let transition = match self.occupied_since(limits, now) {
            _ if is_occupied => Transition::StillOccupied,
            Some((since, first_sample)) => Transition::Occupied { since, first_sample },
            None => Transition::Wait,
        };
        if matches!(transition, Transition::Occupied { .. }) {
            self.is_certain = self.blocked.is_some();
        }
        let age = now.saturating_sub(self.unchanged_since);
        let is_close = self.blocked.is_some() || !matches!(transition, Transition::Wait);
        self.next_sample = if is_close { age } else { self.sample_after(limits, age) };
        transition
    }

    /// Returns the age at which a running thread is sampled next: at the age at which it is
    /// believed, and until then at each doubling.
    fn sample_after(&self, limits: WorkerLimits, age: u64) -> u64 {
        let believed = [limits.running_beside_idle, limits.running];
        let next = believed.into_iter().filter(|&limit| limit > age).min();
        age.saturating_mul(2).min(next.unwrap_or(u64::MAX))
    }

    /// Records what the thread does. Returns whether it was blocked up to now, and is no longer, or
    /// not in the same call.
    fn has_resumed(&mut self, sample: Option<WorkerSample>, now: u64) -> bool {
        let Some(WorkerSample { observed, sample }) = sample else {
            return self.blocked.take().is_some();
        };
        self.samples.get_or_insert([sample; 2])[1] = sample;
        if self.blocked.is_some_and(|blocked| blocked.observed == observed) {
            return false;
        }
        let is_blocked = observed.0.is_blocked();
        let blocked = is_blocked.then_some(Blocked { observed, since: now, sample });
        std::mem::replace(&mut self.blocked, blocked).is_some()
    }

    /// Returns since when the worker is occupied, if that is to be believed, and the first sample
    /// of that time.
    fn occupied_since(
        &self,
        limits: WorkerLimits,
        now: u64,
    ) -> Option<(u64, Option<ThreadSample>)> {
        if let Some(blocked) = self.blocked {
            let is_long = now.saturating_sub(blocked.since) > limits.blocked;
            if is_long {
                return Some((blocked.since, Some(blocked.sample)));
            }
        }
        let is_long = self.was_long_beside_idle(limits)
            || now.saturating_sub(self.unchanged_since) >= limits.running;
        is_long.then(|| (self.unchanged_since, self.samples.map(|[first, _]| first)))
    }
}

// === impl WorkerLimits ===

impl WorkerLimits {
    pub(super) fn new(clock: &Clock, suspect: u64, threshold: u64, workers: usize) -> Self {
        let limit = |(thresholds, least): (u64, Duration)| {
            threshold.saturating_mul(thresholds).max(clock.ticks(least))
        };
        let running =
            limit(RUNNING).saturating_mul((workers as u64).max(FEW_WORKERS)) / FEW_WORKERS;
        Self {
            suspect,
            blocked: threshold,
            running,
            running_beside_idle: limit(RUNNING_BESIDE_IDLE),
            batch: batch(threshold),
            batch_time: clock.duration(batch(threshold)),
        }
    }
}

/// Returns a time that is longer than a batch of polls none of which exceeds the threshold takes.
pub(super) fn batch(threshold: u64) -> u64 {
    threshold.saturating_mul(POLLS_PER_BATCH)
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests;
