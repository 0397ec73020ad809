//! The series of one route.

use std::collections::HashMap;
use std::time::Duration;

use metrics::{Key, Label, SharedString};

use super::delta::{CounterDelta, HistogramDelta, SecondsDelta};
use super::descriptions::{self, Metric};
use super::flush::Flush;
use super::gauges::{Aggregation, Gauges};
use super::sample_budget::SampleQuota;
use crate::routes::{Route, RouteId};
use crate::shard::{HistogramSnapshot, Outcome, RouteTotals};
use crate::stall::{Cause, Phase, TimeSplit};
use crate::state::{DelayedBy, MonitorState};

type RouteLabels = [Label; 2];

/// The values of one route at one moment.
#[derive(Debug, Default)]
pub(super) struct RouteSnapshot {
    pub(super) totals: RouteTotals,
    pub(super) stalls: HashMap<Cause, HistogramSnapshot>,
    /// Where the time of `stalls` went.
    pub(super) split: TimeSplit,
    pub(super) delay_caused: Duration,
    pub(super) delay_suffered: [Duration; DelayedBy::ALL.len()],
    /// The long polls that handed off their worker.
    pub(super) handed_off: u64,
    /// The long polls on threads that are no workers.
    pub(super) off_worker: u64,
}

#[derive(Debug)]
pub(super) struct RouteSeries {
    labels: RouteLabels,
    polls: [HistogramDelta; Phase::ALL.len()],
    schedule_latency: HistogramDelta,
    socket_wait: HistogramDelta,
    request_duration: HistogramDelta,
    request_busy: HistogramDelta,
    stalls: HashMap<Cause, HistogramDelta>,
    split: [SecondsDelta; TimeSplit::NAMES.len()],
    delay_caused: SecondsDelta,
    delay_suffered: [SecondsDelta; DelayedBy::ALL.len()],
    outcomes: [CounterDelta; Outcome::ALL.len()],
    handed_off: CounterDelta,
    off_worker: CounterDelta,
}

/// The gauges of one row.
#[derive(Debug)]
pub(super) struct RouteGauges {
    in_flight: Key,
    in_progress: Key,
    /// `None` for instrumented tasks, many of which wait by nature.
    oldest_request: Option<Key>,
    sent: Option<GaugeValues>,
}

/// The values of the gauges of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct GaugeValues {
    pub(super) in_flight: u64,
    pub(super) oldest_stall_age: Duration,
    /// For how long the request that has waited longest has not been polled.
    pub(super) oldest_request_age: Duration,
}

// === impl RouteSnapshot ===

impl RouteSnapshot {
    /// Returns what is counted of a route.
    pub(super) fn now(monitor: &MonitorState, id: RouteId) -> Self {
        let totals = monitor.totals(id);
        let (mut stalls, mut split, delays, handed_off, off_worker) = {
            let history = monitor.history.lock();
            (
                history.stalls.get(&id).cloned().unwrap_or_default(),
                history.split(id),
                history.delays.of(id),
                history.handed_off.get(&id).copied().unwrap_or_default(),
                history.off_worker.get(&id).copied().unwrap_or_default(),
            )
        };
        if totals.unreported_stalls.count() > 0 {
            stalls.entry(Cause::Unknown).or_default().merge(&totals.unreported_stalls);
            split.off_cpu += monitor.clock.duration(totals.unreported_stalls.ticks());
        }
        let delay_caused = monitor.clock.duration(delays.caused);
        let delay_suffered = delays.suffered.map(|ticks| monitor.clock.duration(ticks));
        Self { totals, stalls, split, delay_caused, delay_suffered, handed_off, off_worker }
    }

    /// Returns whether the route has had requests or stalls, or has delayed others.
    pub(super) fn is_used(&self) -> bool {
        self.totals.started > 0 || !self.stalls.is_empty() || !self.delay_caused.is_zero()
    }
}

// === impl RouteSeries ===

impl RouteSeries {
    pub(super) fn new(route: &Route) -> Self {
        let labels = labels(route);
        let key_of = |metric: Metric| key(metric, &labels, None);
        Self {
            polls: Phase::ALL.map(|phase| {
                let phase = Label::from_static_parts("phase", phase.as_str());
                HistogramDelta::new(key(descriptions::POLL_DURATION, &labels, Some(phase)))
            }),
            schedule_latency: HistogramDelta::new(key_of(descriptions::SCHEDULE_LATENCY)),
            socket_wait: HistogramDelta::new(key_of(descriptions::SOCKET_WAIT)),
            request_duration: HistogramDelta::new(key_of(descriptions::REQUEST_DURATION)),
            request_busy: HistogramDelta::new(key_of(descriptions::REQUEST_BUSY)),
            stalls: HashMap::new(),
            split: TimeSplit::NAMES.map(|on| {
                let on = Label::from_static_parts("on", on);
                SecondsDelta::new(key(descriptions::STALLED, &labels, Some(on)))
            }),
            delay_caused: SecondsDelta::new(key_of(descriptions::DELAY_CAUSED)),
            delay_suffered: DelayedBy::ALL.map(|by| {
                let by = Label::from_static_parts("by", by.as_str());
                SecondsDelta::new(key(descriptions::DELAY_SUFFERED, &labels, Some(by)))
            }),
            outcomes: Outcome::ALL.map(|outcome| {
                let outcome = Label::from_static_parts("outcome", outcome.as_str());
                CounterDelta::new(key(descriptions::REQUESTS, &labels, Some(outcome)))
            }),
            handed_off: CounterDelta::new(key_of(descriptions::HANDED_OFF)),
            off_worker: CounterDelta::new(key_of(descriptions::OFF_WORKER)),
            labels,
        }
    }

    /// Hands over to the rows of another route from now on.
    pub(super) fn rename(&mut self, route: &Route) {
        let renamed = Self::new(route);
        let pairs = self.polls.iter_mut().zip(renamed.polls).chain([
            (&mut self.schedule_latency, renamed.schedule_latency),
            (&mut self.socket_wait, renamed.socket_wait),
            (&mut self.request_duration, renamed.request_duration),
            (&mut self.request_busy, renamed.request_busy),
        ]);
        pairs.for_each(|(delta, renamed)| delta.rename(renamed));
        for (cause, delta) in &mut self.stalls {
            delta.rename(HistogramDelta::new(stalls_key(&renamed.labels, *cause)));
        }
        let counters = self.outcomes.iter_mut().zip(renamed.outcomes).chain([
            (&mut self.handed_off, renamed.handed_off),
            (&mut self.off_worker, renamed.off_worker),
        ]);
        counters.for_each(|(delta, renamed)| delta.rename(renamed));
        let seconds = self
            .split
            .iter_mut()
            .zip(renamed.split)
            .chain(self.delay_suffered.iter_mut().zip(renamed.delay_suffered))
            .chain([(&mut self.delay_caused, renamed.delay_caused)]);
        seconds.for_each(|(delta, renamed)| delta.rename(renamed));
        self.labels = renamed.labels;
    }

    /// Returns how many samples were not handed over yet.
    pub(super) fn pending(&self, snapshot: &RouteSnapshot) -> u64 {
        let totals = &snapshot.totals;
        let polls = self.polls.iter().zip(&totals.polls);
        polls.map(|(delta, total)| delta.pending(total)).sum::<u64>()
            + self.schedule_latency.pending(&totals.schedule_latency)
            + self.socket_wait.pending(&totals.socket_wait)
            + self.request_duration.pending(&totals.request_duration)
            + self.request_busy.pending(&totals.request_busy)
    }

    pub(super) fn send(&mut self, flush: &Flush<'_>, quota: SampleQuota, snapshot: &RouteSnapshot) {
        let totals = &snapshot.totals;
        for (delta, total) in self.polls.iter_mut().zip(&totals.polls) {
            delta.send(flush, quota, total);
        }
        self.schedule_latency.send(flush, quota, &totals.schedule_latency);
        self.socket_wait.send(flush, quota, &totals.socket_wait);
        self.request_duration.send(flush, quota, &totals.request_duration);
        self.request_busy.send(flush, quota, &totals.request_busy);
        self.send_stalls(flush, snapshot);
        for (delta, &total) in self.outcomes.iter_mut().zip(&totals.ended) {
            if total > 0 {
                delta.send(flush, total);
            }
        }
        for (delta, total) in [
            (&mut self.handed_off, snapshot.handed_off),
            (&mut self.off_worker, snapshot.off_worker),
        ] {
            if total > 0 {
                delta.send(flush, total);
            }
        }
    }

    /// Stalls are few, so they have no quota.
    fn send_stalls(&mut self, flush: &Flush<'_>, snapshot: &RouteSnapshot) {
        for (&cause, total) in &snapshot.stalls {
            let new = || HistogramDelta::new(stalls_key(&self.labels, cause));
            let delta = self.stalls.entry(cause).or_insert_with(new);
            delta.send(flush, SampleQuota::unlimited(), total);
        }
        // Also of a route without stalls: a rate over the first one needs the zero before it.
        let seconds = self
            .split
            .iter_mut()
            .zip(snapshot.split.parts())
            .chain(self.delay_suffered.iter_mut().zip(snapshot.delay_suffered))
            .chain([(&mut self.delay_caused, snapshot.delay_caused)]);
        seconds.for_each(|(delta, total)| delta.send(flush, total));
    }
}

// === impl RouteGauges ===

impl RouteGauges {
    pub(super) fn new(route: &Route, is_task: bool) -> Self {
        let labels = labels(route);
        let key_of = |metric: Metric| key(metric, &labels, None);
        Self {
            in_flight: key_of(descriptions::IN_FLIGHT),
            in_progress: key_of(descriptions::IN_PROGRESS),
            oldest_request: (!is_task).then(|| key_of(descriptions::OLDEST_REQUEST)),
            sent: None,
        }
    }

    pub(super) fn send(&mut self, flush: &Flush<'_>, gauges: &mut Gauges, values: &GaugeValues) {
        if self.sent.replace(*values) == Some(*values) && !flush.is_full {
            return;
        }
        gauges.set(flush, &self.in_flight, Aggregation::Sum, values.in_flight as f64);
        let age = values.oldest_stall_age.as_secs_f64();
        gauges.set(flush, &self.in_progress, Aggregation::Max, age);
        if let Some(key) = &self.oldest_request {
            let age = values.oldest_request_age.as_secs_f64();
            gauges.set(flush, key, Aggregation::Max, age);
        }
    }
}

// === impl GaugeValues ===

impl GaugeValues {
    /// Adds the values of another route of the same row.
    pub(super) fn merge(&mut self, other: &Self) {
        self.in_flight += other.in_flight;
        self.oldest_stall_age = self.oldest_stall_age.max(other.oldest_stall_age);
        self.oldest_request_age = self.oldest_request_age.max(other.oldest_request_age);
    }
}

fn labels(route: &Route) -> RouteLabels {
    let method = Label::from_static_parts("method", route.method);
    [method, Label::new("route", SharedString::from_shared(route.name.clone()))]
}

fn stalls_key(labels: &RouteLabels, cause: Cause) -> Key {
    let cause = Label::from_static_parts("cause", cause.as_str());
    key(descriptions::STALLS, labels, Some(cause))
}

fn key(metric: Metric, labels: &RouteLabels, extra: Option<Label>) -> Key {
    Key::from_parts(metric.name, labels.iter().cloned().chain(extra).collect::<Vec<_>>())
}
