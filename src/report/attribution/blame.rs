//! What kept one request waiting, in every instant of its delay.

use super::timeline::{Culprit, Segment, Timeline};
use crate::routes::RouteId;
use crate::shard::PollId;
use crate::state::{Delay, DelayKind, DelayedBy, Lane, MonitorState};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    Poll { id: Option<PollId>, route: RouteId },
    Other(DelayedBy),
}

/// The parts of a delay that have been put down to something, in ticks.
struct Parts<'a> {
    monitor: &'a MonitorState,
    busy_since: u64,
    parts: Vec<(Blame, u64)>,
}

/// Divides a delay; the parts add up to it.
pub(super) fn blame(
    delay: &Delay,
    timeline: &Timeline,
    monitor: &MonitorState,
) -> Vec<(Blame, u64)> {
    let mut parts = Parts { monitor, busy_since: delay.busy_since, parts: Vec::new() };
    let own = timeline.of_lane(delay.lane, delay.ready, delay.polled);
    for_each_part(own, delay.ready, delay.polled, |from, to, segment| match segment {
        Some(segment) => parts.add_poll(&segment.culprit, from, to),
        None if matches!(delay.lane, Lane::UnknownWorker(_)) => {
            add_by_all(timeline, &mut parts, from, to);
        }
        None => add_by_driver(timeline, &mut parts, from, to),
    });
    parts.parts
}

/// For a request whose worker is not known: long polls that occupy all workers share the blame.
fn add_by_all(timeline: &Timeline, parts: &mut Parts<'_>, from: u64, to: u64) {
    let workers = parts.monitor.unattributed.len();
    let mut bounds: Vec<_> = timeline
        .of_workers(from, to)
        .flat_map(|segment| [segment.from, segment.to])
        .chain([from, to])
        .collect();
    bounds.sort_unstable();
    bounds.dedup();
    for (&from, &to) in bounds.iter().zip(bounds.iter().skip(1)) {
        let busy: Vec<_> = timeline.of_workers(from, to).collect();
        if busy.len() < workers {
            add_by_driver(timeline, parts, from, to);
            continue;
        }
        let (share, mut start) = ((to - from) / busy.len() as u64, from);
        for (index, segment) in busy.iter().enumerate() {
            let end = if index + 1 == busy.len() { to } else { start + share };
            parts.add_poll(&segment.culprit, start, end);
            start = end;
        }
    }
}

/// Where no poll occupied the worker, it may be that nothing was read from its socket, because of a
/// stall that starved the I/O driver.
fn add_by_driver(timeline: &Timeline, parts: &mut Parts<'_>, from: u64, to: u64) {
    let starving = timeline
        .of_workers(from, to)
        .filter(|segment| segment.culprit.starved_until > segment.from)
        .map(|segment| Segment { to: segment.to.min(segment.culprit.starved_until), ..segment });
    let mut starving: Vec<_> = starving.collect();
    starving.sort_by_key(|segment| segment.from);
    for_each_part(starving.into_iter(), from, to, |from, to, segment| match segment {
        Some(segment) => parts.add_poll(&segment.culprit, from, to),
        None => parts.add_rest(from, to),
    });
}

/// Calls `f` with the parts of an interval that segments cover, and with those that none does. Of
/// segments that overlap, the first one counts.
fn for_each_part(
    segments: impl Iterator<Item = Segment>,
    from: u64,
    to: u64,
    mut f: impl FnMut(u64, u64, Option<Segment>),
) {
    let mut done = from;
    for segment in segments {
        if segment.from > done {
            f(done, segment.from, None);
        }
        let start = segment.from.max(done);
        if segment.to > start {
            f(start, segment.to, Some(segment));
            done = segment.to;
        }
    }
    if to > done {
        f(done, to, None);
    }
}

// === impl Parts ===

impl Parts<'_> {
    /// Puts an interval down to a poll, and to the host in proportion to what it has added.
    fn add_poll(&mut self, culprit: &Culprit, from: u64, to: u64) {
        let (ticks, length) = (to - from, culprit.end.saturating_sub(culprit.start).max(1));
        let host = u128::from(ticks) * u128::from(culprit.host) / u128::from(length);
        let host = u64::try_from(host).unwrap_or(u64::MAX).min(ticks);
        self.add(Blame::Poll { id: culprit.id, route: culprit.route }, ticks - host);
        self.add(Blame::Other(DelayedBy::Host), host);
    }

    /// Puts an interval down to no poll.
    fn add_rest(&mut self, from: u64, to: u64) {
        let delays = &self.monitor.delays;
        let host = [DelayKind::RunQueue, DelayKind::Stopped];
        let host: u64 = host.iter().map(|&kind| delays.overlap(kind, from, to)).sum();
        let host = host.min(to - from);
        let busy = (to - self.busy_since.clamp(from, to)).min(to - from - host);
        self.add(Blame::Other(DelayedBy::Host), host);
        self.add(Blame::Other(DelayedBy::Load), busy);
        self.add(Blame::Other(DelayedBy::Unknown), to - from - host - busy);
    }

    fn add(&mut self, blame: Blame, ticks: u64) {
        if ticks > 0 {
            self.parts.push((blame, ticks));
        }
    }
}
