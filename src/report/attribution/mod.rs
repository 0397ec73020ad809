//! Who delayed whom: puts each delay of a request down to the long polls that kept it waiting.
//!
//! In every instant of a delay, the blame goes to the long poll on the worker that polled the
//! request in the end; if that worker is not known, and all workers are inside long polls, to these
//! in equal shares; else to the stall that starves the I/O driver. What the host has added to a
//! poll, and what it did to the watchdog meanwhile, is the host's. The rest is `load` while the
//! worker was busy, and otherwise unknown.

mod blame;
#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests;
mod timeline;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use self::blame::{Blame, blame};
use self::timeline::{Culprit, Timeline};
use super::stall_builder::StallBuilder;
use crate::routes::RouteId;
use crate::shard::PollId;
use crate::stall::{Delayed, TimeSplit};
use crate::state::{Delay, DelayTotals, Lane, LongPoll, MonitorState, StallMessage};

/// Attributes the delays of one monitor's requests. Belongs to the reporter.
pub(super) struct Attribution {
    monitor: Arc<MonitorState>,
    timeline: Timeline,
    /// The delays that are not attributed yet.
    pending: Vec<Delay>,
    /// The sum of the delays for which others have to stand, in ticks.
    lost: u64,
    /// The stalls in progress that are in the timeline, by their starts.
    in_progress: Vec<(Lane, u64)>,
    /// Until when all delays are attributed, in ticks.
    settled_until: u64,
    /// The requests that each stall has delayed, until it is reported.
    delayed: HashMap<PollId, Victims>,
}

/// The delays by one stall, by route.
#[derive(Debug, Default)]
struct Victims(BTreeMap<RouteId, VictimDelays>);

/// In ticks.
#[derive(Debug, Default)]
struct VictimDelays {
    requests: f64,
    total: u64,
    longest: u64,
}

// === impl Attribution ===

impl Attribution {
    /// How long a delay waits for the polls that ended while it did to be known.
    pub(super) const SETTLE_AFTER: Duration = Duration::from_millis(20);
    /// For how long an ended poll is remembered.
    const MEMORY: Duration = Duration::from_secs(600);
    /// The delays that are attributed at once; of more, some stand for the others.
    const MAX_BATCH: usize = 1024;
    /// The delays that are held back.
    const MAX_PENDING: usize = 4096;
    /// More stalls than are reported soon: the reports of some were lost.
    const MAX_STALLS: usize = 256;

    pub(super) fn new(monitor: Arc<MonitorState>) -> Self {
        Self {
            monitor,
            timeline: Timeline::default(),
            pending: Vec::new(),
            lost: 0,
            in_progress: Vec::new(),
            settled_until: 0,
            delayed: HashMap::new(),
        }
    }

    /// Takes what the polling threads have recorded.
    pub(super) fn receive(&mut self) {
        let monitor = Arc::clone(&self.monitor);
        // Before the long polls: of a poll that has kept a request waiting, the end comes first.
        while let Some(delay) = monitor.attribution.pop_delay() {
            if self.pending.len() < Self::MAX_PENDING {
                self.pending.push(delay);
            } else {
                self.lost += ticks(&delay);
            }
        }
        self.lost += monitor.attribution.take_lost();
        while let Some(poll) = monitor.attribution.pop_long_poll() {
            self.add_poll(poll);
        }
    }

    /// Returns how many requests that have been read since waited in a socket at a moment, as long
    /// as their delays are not attributed.
    pub(super) fn in_sockets_at(&self, moment: u64) -> usize {
        let waited = |delay: &&Delay| delay.ready < moment && moment <= delay.polled;
        self.pending.iter().filter(|delay| delay.in_socket).filter(waited).count()
    }

    /// Adds a stall that has ended, or has handed off its worker then.
    pub(super) fn add_stall(&mut self, stall: &StallMessage, end: u64, split: &TimeSplit) {
        let culprit = self.culprit(stall, end, split);
        self.timeline.set(lane(stall), culprit);
    }

    /// Removes a poll that turned out to be no stall.
    pub(super) fn remove(&mut self, stall: &StallMessage) {
        self.timeline.remove(lane(stall), stall.poll.start);
        self.forget(stall.id);
    }

    /// Attributes the delays that ended before `undecided`, the start of the oldest poll of which
    /// it is not decided whether it is a stall, if there is one. All polls that had ended at `now`
    /// are known.
    pub(super) fn update(&mut self, now: u64, undecided: Option<u64>) {
        let until = now.saturating_sub(self.monitor.clock.ticks(Self::SETTLE_AFTER));
        self.settle(until.min(undecided.unwrap_or(u64::MAX)));
    }

    /// Attributes all delays.
    pub(super) fn finish(&mut self) {
        self.settle(u64::MAX);
    }

    /// Returns whether there are delays that are not attributed yet.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Returns whether the delays up to a moment are attributed.
    pub(super) fn is_settled(&self, moment: u64) -> bool {
        self.settled_until >= moment
    }

    /// Returns whom a stall has delayed so far, most harm first.
    pub(super) fn delayed_by(&self, id: PollId) -> Arc<[Delayed]> {
        let Some(victims) = self.delayed.get(&id) else { return Arc::default() };
        let monitor = &self.monitor;
        let mut delayed: BTreeMap<_, Delayed> = BTreeMap::new();
        for (&route, delays) in &victims.0 {
            let row = monitor.routes.row(route);
            let Some(name) = monitor.routes.get(row) else { continue };
            let of_row = delayed.entry(row).or_insert_with(|| Delayed {
                method: name.method,
                route: Arc::clone(&name.name),
                requests: 0,
                total: Duration::ZERO,
                longest: Duration::ZERO,
            });
            of_row.requests += delays.requests.round() as u64;
            of_row.total += monitor.clock.duration(delays.total);
            of_row.longest = of_row.longest.max(monitor.clock.duration(delays.longest));
        }
        let mut delayed: Vec<_> = delayed.into_values().collect();
        delayed.sort_by_key(|of_row| std::cmp::Reverse(of_row.total));
        delayed.into()
    }

    /// Forgets whom a stall has delayed.
    pub(super) fn forget(&mut self, id: PollId) {
        self.delayed.remove(&id);
    }

    fn settle(&mut self, until: u64) {
        let monitor = Arc::clone(&self.monitor);
        self.receive();
        self.add_stalls_in_progress();
        let pending = std::mem::take(&mut self.pending).into_iter();
        // A clock that has jumped back must not keep delays for ever.
        let now = monitor.clock.now();
        let is_settled = |delay: &Delay| delay.polled < until || delay.polled > now;
        let (batch, held_back): (Vec<_>, _) = pending.partition(is_settled);
        self.pending = held_back;
        if !batch.is_empty() {
            let lost = self.take_lost(&batch);
            self.attribute(&batch, lost);
        }
        self.settled_until = until;
        self.forget_old(until.saturating_sub(monitor.clock.ticks(Self::MEMORY)));
    }

    /// Takes the part of the lost delays that some delays have to stand for.
    fn take_lost(&mut self, batch: &[Delay]) -> u64 {
        let sum = |delays: &[Delay]| delays.iter().map(ticks).map(u128::from).sum::<u128>();
        let (settled, held_back) = (sum(batch), sum(&self.pending));
        let share = u128::from(self.lost) * settled / (settled + held_back).max(1);
        let share = u64::try_from(share).unwrap_or(u64::MAX);
        self.lost -= share;
        share
    }

    fn forget_old(&mut self, before: u64) {
        self.timeline.forget_before(before);
        if self.delayed.len() > Self::MAX_STALLS {
            let monitor = &self.monitor;
            self.delayed.retain(|&id, _| id.start >= before || monitor.is_running(id));
        }
    }

    fn add_poll(&mut self, poll: LongPoll) {
        let LongPoll { lane, route, start, end, host } = poll;
        let culprit = Culprit { id: None, route, start, end, host, starved_until: start };
        self.timeline.set(lane, culprit);
    }

    fn add_stalls_in_progress(&mut self) {
        let monitor = Arc::clone(&self.monitor);
        // Those that have handed off their worker since are in progress no more.
        for (lane, start) in std::mem::take(&mut self.in_progress) {
            self.timeline.remove(lane, start);
        }
        for stall in monitor.stalls_in_progress() {
            let stall = stall.to_report(&monitor).stall;
            let split = StallBuilder::in_progress(&monitor, &stall, &[], Duration::ZERO).split();
            self.add_stall(&stall, stall.poll.start + stall.ticks, &split);
            self.in_progress.push((lane(&stall), stall.poll.start));
        }
    }

    fn culprit(&self, stall: &StallMessage, end: u64, split: &TimeSplit) -> Culprit {
        let StallMessage { id, poll, .. } = *stall;
        let start = poll.start;
        // The split is of the stall's own time, without that of stalls nested in it.
        let length = end.saturating_sub(start);
        let host = u128::from(self.monitor.clock.ticks(split.host())) * u128::from(length);
        let host = host / u128::from(stall.ticks.max(1));
        let host = u64::try_from(host).unwrap_or(u64::MAX).min(length);
        let starved_until = match (stall.io_starved, stall.rescued_at) {
            (false, _) => start,
            (true, Some(rescued_at)) => rescued_at.clamp(start, end.max(start)),
            (true, None) => end,
        };
        Culprit { id: Some(id), route: poll.route, start, end, host, starved_until }
    }

    /// Attributes some delays. `lost` is the sum of those that are not among them.
    fn attribute(&mut self, delays: &[Delay], lost: u64) {
        let stride = delays.len().div_ceil(Self::MAX_BATCH).max(1);
        let sampled = || delays.iter().step_by(stride);
        let total: u64 = delays.iter().map(ticks).sum();
        let of_sampled: u64 = sampled().map(ticks).sum();
        let weight = (total + lost) as f64 / of_sampled.max(1) as f64;
        let requests = delays.len() as f64 / sampled().count().max(1) as f64
            * ((total + lost) as f64 / total.max(1) as f64);
        let monitor = Arc::clone(&self.monitor);
        for delay in sampled() {
            let parts = blame(delay, &self.timeline, &monitor);
            let mut history = monitor.history.lock();
            self.add(delay, &parts, Weight { time: weight, requests }, &mut history.delays);
        }
    }

    fn add(
        &mut self,
        delay: &Delay,
        parts: &[(Blame, u64)],
        weight: Weight,
        totals: &mut DelayTotals,
    ) {
        let mut by_stall: BTreeMap<PollKey, u64> = BTreeMap::new();
        for &(blame, ticks) in parts {
            let weighted = (ticks as f64 * weight.time) as u64;
            match blame {
                Blame::Poll { id, route } => {
                    totals.add_by_poll(delay.route, route, weighted);
                    if let Some(id) = id {
                        *by_stall.entry((id.shard, id.start)).or_default() += ticks;
                    }
                }
                Blame::Other(by) => totals.add(delay.route, by, weighted),
            }
        }
        let is_noticeable = |ticks| self.monitor.lateness.is_delay(ticks);
        for ((shard, start), ticks) in
            by_stall.into_iter().filter(|&(_, ticks)| is_noticeable(ticks))
        {
            let victims = self.delayed.entry(PollId { shard, start }).or_default();
            let of_route = victims.0.entry(delay.route).or_default();
            of_route.requests += weight.requests;
            of_route.total += (ticks as f64 * weight.time) as u64;
            of_route.longest = of_route.longest.max(ticks);
        }
    }
}

type PollKey = (usize, u64);

/// What one delay stands for.
#[derive(Clone, Copy, Debug)]
struct Weight {
    time: f64,
    requests: f64,
}

fn ticks(delay: &Delay) -> u64 {
    delay.polled.saturating_sub(delay.ready)
}

fn lane(stall: &StallMessage) -> Lane {
    match stall.worker {
        Some(worker) if stall.on_worker => Lane::Worker(worker),
        None if stall.on_worker => Lane::UnknownWorker(stall.id.shard),
        _ => Lane::Thread(stall.id.shard),
    }
}
