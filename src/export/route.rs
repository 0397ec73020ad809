//! The series of one route.

use std::collections::HashMap;
use std::time::Duration;

use metrics::{Key, Label, Recorder, SharedString};

use super::delta::{CounterDelta, HistogramDelta, SecondsDelta};
use super::descriptions::{self, Metric};
use super::gauges::{Aggregation, Gauges};
use super::sample_budget::SampleQuota;
use crate::os::Clock;
use crate::routes::{Route, RouteId};
use crate::shard::{HistogramSnapshot, Outcome, RouteTotals};
use crate::stall::{Cause, Phase, TimeSplit};
use crate::state::MonitorState;

/// The values of one route at one moment.
#[derive(Debug)]
pub(super) struct RouteSnapshot {
    pub(super) totals: RouteTotals,
    pub(super) stalls: HashMap<Cause, HistogramSnapshot>,
    /// Where the time of `stalls` went.
    pub(super) split: TimeSplit,
    /// The long polls that handed off their worker.
    pub(super) handed_off: u64,
    /// The long polls on threads that are no workers.
    pub(super) off_worker: u64,
}

#[derive(Debug)]
pub(super) struct RouteSeries {
    labels: [Label; 2],
    polls: [HistogramDelta; Phase::ALL.len()],
    schedule_latency: HistogramDelta,
    request_duration: HistogramDelta,
    request_busy: HistogramDelta,
    stalls: HashMap<Cause, HistogramDelta>,
    split: [SecondsDelta; TimeSplit::NAMES.len()],
    outcomes: [CounterDelta; Outcome::ALL.len()],
    handed_off: CounterDelta,
    off_worker: CounterDelta,
    in_flight: Key,
    in_progress: Key,
    oldest_request: Key,
}

// === impl RouteSnapshot ===

impl RouteSnapshot {
    /// Returns what is counted of a route.
    pub(super) fn now(monitor: &MonitorState, id: RouteId) -> Self {
        let totals = monitor.totals(id);
        let (mut stalls, mut split, handed_off, off_worker) = {
            let history = monitor.history.lock();
            (
                history.stalls.get(&id).cloned().unwrap_or_default(),
                history.split(id),
                history.handed_off.get(&id).copied().unwrap_or_default(),
                history.off_worker.get(&id).copied().unwrap_or_default(),
            )
        };
        if totals.unreported_stalls.count() > 0 {
            stalls.entry(Cause::Unknown).or_default().merge(&totals.unreported_stalls);
            split.off_cpu += monitor.clock.duration(totals.unreported_stalls.ticks());
        }
        Self { totals, stalls, split, handed_off, off_worker }
    }

    /// Returns whether the route has had requests or stalls.
    pub(super) fn is_used(&self) -> bool {
        self.totals.started > 0 || !self.stalls.is_empty()
    }
}

// === impl RouteSeries ===

impl RouteSeries {
    pub(super) fn new(route: &Route) -> Self {
        let method = Label::from_static_parts("method", route.method);
        let labels = [method, Label::new("route", SharedString::from_shared(route.name.clone()))];
        let key_of = |metric: Metric| key(metric, &labels, None);
        Self {
            polls: Phase::ALL.map(|phase| {
                let phase = Label::from_static_parts("phase", phase.as_str());
                HistogramDelta::new(key(descriptions::POLL_DURATION, &labels, Some(phase)))
            }),
            schedule_latency: HistogramDelta::new(key_of(descriptions::SCHEDULE_LATENCY)),
            request_duration: HistogramDelta::new(key_of(descriptions::REQUEST_DURATION)),
            request_busy: HistogramDelta::new(key_of(descriptions::REQUEST_BUSY)),
            stalls: HashMap::new(),
            split: TimeSplit::NAMES.map(|on| {
                let on = Label::from_static_parts("on", on);
                SecondsDelta::new(key(descriptions::STALLED, &labels, Some(on)))
            }),
            outcomes: Outcome::ALL.map(|outcome| {
                let outcome = Label::from_static_parts("outcome", outcome.as_str());
                CounterDelta::new(key(descriptions::REQUESTS, &labels, Some(outcome)))
            }),
            handed_off: CounterDelta::new(key_of(descriptions::HANDED_OFF)),
            off_worker: CounterDelta::new(key_of(descriptions::OFF_WORKER)),
            in_flight: key_of(descriptions::IN_FLIGHT),
            in_progress: key_of(descriptions::IN_PROGRESS),
            oldest_request: key_of(descriptions::OLDEST_REQUEST),
            labels,
        }
    }

    /// Returns how many samples were not handed over yet.
    pub(super) fn pending(&self, snapshot: &RouteSnapshot) -> u64 {
        let totals = &snapshot.totals;
        let polls = self.polls.iter().zip(&totals.polls);
        polls.map(|(delta, total)| delta.pending(total)).sum::<u64>()
            + self.schedule_latency.pending(&totals.schedule_latency)
            + self.request_duration.pending(&totals.request_duration)
            + self.request_busy.pending(&totals.request_busy)
    }

    pub(super) fn send_gauges(
        &self,
        recorder: &dyn Recorder,
        gauges: &mut Gauges,
        snapshot: &RouteSnapshot,
        oldest_stall_age: Duration,
    ) {
        let in_flight = snapshot.totals.in_flight() as f64;
        gauges.set(recorder, &self.in_flight, Aggregation::Sum, in_flight);
        let in_progress = oldest_stall_age.as_secs_f64();
        gauges.set(recorder, &self.in_progress, Aggregation::Max, in_progress);
    }

    pub(super) fn send(
        &mut self,
        recorder: &dyn Recorder,
        clock: &Clock,
        quota: SampleQuota,
        snapshot: &RouteSnapshot,
    ) {
        let totals = &snapshot.totals;
        for (delta, total) in self.polls.iter_mut().zip(&totals.polls) {
            delta.send(recorder, clock, quota, total);
        }
        self.schedule_latency.send(recorder, clock, quota, &totals.schedule_latency);
        self.request_duration.send(recorder, clock, quota, &totals.request_duration);
        self.request_busy.send(recorder, clock, quota, &totals.request_busy);
        self.send_stalls(recorder, clock, snapshot);
        for (delta, &total) in self.outcomes.iter_mut().zip(&totals.ended) {
            if total > 0 {
                delta.send(recorder, total);
            }
        }
        for (delta, total) in [
            (&mut self.handed_off, snapshot.handed_off),
            (&mut self.off_worker, snapshot.off_worker),
        ] {
            if total > 0 {
                delta.send(recorder, total);
            }
        }
    }

    /// Hands over for how long the request that has waited longest has not been polled.
    pub(super) fn send_oldest_request(
        &self,
        recorder: &dyn Recorder,
        gauges: &mut Gauges,
        age: Duration,
    ) {
        gauges.set(recorder, &self.oldest_request, Aggregation::Max, age.as_secs_f64());
    }

    /// Stalls are few, so they have no quota.
    fn send_stalls(&mut self, recorder: &dyn Recorder, clock: &Clock, snapshot: &RouteSnapshot) {
        for (&cause, total) in &snapshot.stalls {
            let delta = self.stalls.entry(cause).or_insert_with(|| {
                let cause = Label::from_static_parts("cause", cause.as_str());
                HistogramDelta::new(key(descriptions::STALLS, &self.labels, Some(cause)))
            });
            delta.send(recorder, clock, SampleQuota::unlimited(), total);
        }
        // Also of a route without stalls: a rate over the first one needs the zero before it.
        for (delta, total) in self.split.iter_mut().zip(snapshot.split.parts()) {
            delta.send(recorder, total);
        }
    }
}

fn key(metric: Metric, labels: &[Label; 2], extra: Option<Label>) -> Key {
    Key::from_parts(metric.name, labels.iter().cloned().chain(extra).collect::<Vec<_>>())
}
