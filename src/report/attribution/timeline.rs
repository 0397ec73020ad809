//! The long polls of each lane, as segments of time that do not overlap.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::routes::RouteId;
use crate::shard::PollId;
use crate::state::Lane;

/// A poll that keeps others waiting. Times are in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Culprit {
    /// `None` if it is no stall, so that no report will name those that it has delayed.
    pub(super) id: Option<PollId>,
    pub(super) route: RouteId,
    pub(super) start: u64,
    pub(super) end: u64,
    /// How much of it the host has added.
    pub(super) host: u64,
    /// Until when the I/O driver was starved; `start` if it was not.
    pub(super) starved_until: u64,
}

/// A part of a lane's time in which a poll was the innermost long one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) culprit: Culprit,
}

#[derive(Debug, Default)]
pub(super) struct Timeline {
    /// In the order of time.
    lanes: BTreeMap<Lane, Vec<Segment>>,
}

// === impl Timeline ===

impl Timeline {
    /// The segments that are kept of a lane.
    const MAX_SEGMENTS: usize = 4096;

    /// Adds a poll to a lane, or replaces what is known of a stall.
    pub(super) fn set(&mut self, lane: Lane, culprit: Culprit) {
        let segments = self.lanes.entry(lane).or_default();
        if culprit.id.is_some() {
            segments.retain(|segment| segment.culprit.start != culprit.start);
        }
        let range = overlapping(segments, culprit.start, culprit.end);
        let pieces = merge(&segments[range.clone()], culprit);
        segments.splice(range, pieces);
        let excess = segments.len().saturating_sub(Self::MAX_SEGMENTS);
        segments.drain(..excess);
    }

    /// Forgets a poll, which has delayed no request.
    pub(super) fn remove(&mut self, lane: Lane, start: u64) {
        if let Some(segments) = self.lanes.get_mut(&lane) {
            segments.retain(|segment| segment.culprit.start != start);
        }
    }

    /// Forgets what was over before a moment.
    pub(super) fn forget_before(&mut self, moment: u64) {
        self.lanes.retain(|_, segments| {
            let count = segments.partition_point(|segment| segment.to <= moment);
            segments.drain(..count);
            !segments.is_empty()
        });
    }

    /// Returns the segments of a lane that overlap an interval, cut to it.
    pub(super) fn of_lane(
        &self,
        lane: Lane,
        from: u64,
        to: u64,
    ) -> impl Iterator<Item = Segment> + '_ {
        let segments = self.lanes.get(&lane).map_or(&[][..], Vec::as_slice);
        let range = overlapping(segments, from, to);
        segments[range].iter().map(move |segment| Segment {
            from: segment.from.max(from),
            to: segment.to.min(to),
            ..*segment
        })
    }

    /// Returns the segments of all workers that overlap an interval, cut to it.
    pub(super) fn of_workers(&self, from: u64, to: u64) -> impl Iterator<Item = Segment> + '_ {
        let workers = self.lanes.keys().filter(|lane| matches!(lane, Lane::Worker(_)));
        workers.flat_map(move |&lane| self.of_lane(lane, from, to))
    }
}

/// Returns which of the segments overlap an interval.
fn overlapping(segments: &[Segment], from: u64, to: u64) -> Range<usize> {
    let first = segments.partition_point(|segment| segment.to <= from);
    let last = segments.partition_point(|segment| segment.from < to);
    first..last.max(first)
}

/// Merges a poll with the segments that it overlaps: of two polls, one is nested in the other, and
/// the time of the inner one is its own.
fn merge(segments: &[Segment], culprit: Culprit) -> Vec<Segment> {
    let mut merged = Vec::with_capacity(segments.len() + 2);
    let mut push = |from: u64, to: u64, culprit| {
        if from < to {
            merged.push(Segment { from, to, culprit });
        }
    };
    let mut from = culprit.start;
    for segment in segments {
        if segment.culprit.start > culprit.start {
            push(from, segment.from, culprit);
            push(segment.from, segment.to, segment.culprit);
            from = segment.to;
        } else {
            push(segment.from, from.min(segment.to), segment.culprit);
            let end = culprit.end.min(segment.to).max(from);
            push(from, end, culprit);
            push(end, segment.to, segment.culprit);
            from = end;
        }
    }
    push(from, culprit.end, culprit);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane::Worker(0);

    fn culprit(start: u64, end: u64) -> Culprit {
        let route = RouteId::from_bits(start);
        Culprit { id: None, route, start, end, host: 0, starved_until: start }
    }

    fn timeline(polls: &[(u64, u64)]) -> Timeline {
        let mut timeline = Timeline::default();
        polls.iter().for_each(|&(start, end)| timeline.set(LANE, culprit(start, end)));
        timeline
    }

    /// Returns the segments, each with the start of its poll.
    fn segments(timeline: &Timeline, from: u64, to: u64) -> Vec<(u64, u64, u64)> {
        let segments = timeline.of_lane(LANE, from, to);
        segments.map(|segment| (segment.from, segment.to, segment.culprit.start)).collect()
    }

    #[test]
    fn polls_are_cut_to_the_interval() {
        let timeline = timeline(&[(10, 20), (30, 40), (40, 50)]);
        assert_eq!(segments(&timeline, 15, 45), [(15, 20, 10), (30, 40, 30), (40, 45, 40)]);
        assert_eq!(segments(&timeline, 20, 30), []);
        assert_eq!(segments(&timeline, 60, 70), []);
    }

    #[test]
    fn the_time_of_a_nested_poll_is_its_own_whichever_is_known_first() {
        let expected = [(10, 12, 10), (12, 15, 12), (15, 17, 10), (17, 18, 17), (18, 20, 10)];
        for polls in [[(12, 15), (17, 18), (10, 20)], [(10, 20), (12, 15), (17, 18)]] {
            assert_eq!(segments(&timeline(&polls), 0, 100), expected, "{polls:?}");
        }
    }

    #[test]
    fn what_is_known_of_a_poll_is_replaced() {
        let mut timeline = timeline(&[(12, 15)]);
        let id = Some(PollId { shard: 0, start: 10 });
        [20, 30].into_iter().for_each(|end| timeline.set(LANE, Culprit { id, ..culprit(10, end) }));
        assert_eq!(segments(&timeline, 0, 100), [(10, 12, 10), (12, 15, 12), (15, 30, 10)]);
        timeline.remove(LANE, 10);
        assert_eq!(segments(&timeline, 0, 100), [(12, 15, 12)]);
        timeline.forget_before(15);
        assert_eq!(segments(&timeline, 0, 100), []);
    }
}
