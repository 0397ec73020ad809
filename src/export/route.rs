//! The series of one route.

use std::collections::HashMap;
use std::time::Duration;

use metrics::{Key, Label, Recorder, SharedString};

use super::catalogue as names;
use super::catalogue::Metric;
use super::gauges::{Combine, Gauges};
use super::pace::Pace;
use super::sent::{SentCount, SentSamples};
use crate::cells::{Samples, Totals};
use crate::clock::Clock;
use crate::outcome::{Outcome, Phase};
use crate::routes::Route;
use crate::stall::Cause;

/// The numbers of one route at one moment.
#[derive(Debug)]
pub(super) struct RouteNow {
    pub(super) totals: Totals,
    pub(super) stalls: HashMap<Cause, Samples>,
    /// Long polls that gave their worker away.
    pub(super) handed_off: u64,
    /// Age of the oldest stall in progress.
    pub(super) stalled_for: Duration,
}

#[derive(Debug)]
pub(super) struct RouteSeries {
    labels: [Label; 2],
    polls: [SentSamples; Phase::ALL.len()],
    schedule_delay: SentSamples,
    request_duration: SentSamples,
    request_busy: SentSamples,
    stalls: HashMap<Cause, SentSamples>,
    outcomes: [SentCount; Outcome::ALL.len()],
    handed_off: SentCount,
    in_flight: Key,
    in_progress: Key,
}

impl RouteSeries {
    pub(super) fn new(route: &Route) -> Self {
        let method = Label::from_static_parts("method", route.method);
        let labels = [method, Label::new("route", SharedString::from_shared(route.name.clone()))];
        let key = |metric: Metric| key(metric, &labels, None);
        Self {
            polls: Phase::ALL.map(|phase| {
                let phase = Label::from_static_parts("phase", phase.as_str());
                SentSamples::new(self::key(names::POLL_DURATION, &labels, Some(phase)))
            }),
            schedule_delay: SentSamples::new(key(names::SCHEDULE_DELAY)),
            request_duration: SentSamples::new(key(names::REQUEST_DURATION)),
            request_busy: SentSamples::new(key(names::REQUEST_BUSY)),
            stalls: HashMap::new(),
            outcomes: Outcome::ALL.map(|outcome| {
                let outcome = Label::from_static_parts("outcome", outcome.as_str());
                SentCount::new(self::key(names::REQUESTS, &labels, Some(outcome)))
            }),
            handed_off: SentCount::new(key(names::HANDED_OFF)),
            in_flight: key(names::IN_FLIGHT),
            in_progress: key(names::IN_PROGRESS),
            labels,
        }
    }

    /// How many samples were not handed over yet.
    pub(super) fn pending(&self, now: &RouteNow) -> u64 {
        let totals = &now.totals;
        let polls: u64 = self.polls.iter().zip(&totals.polls).map(|(sent, total)| sent.pending(total)).sum();
        polls
            + self.schedule_delay.pending(&totals.schedule_delay)
            + self.request_duration.pending(&totals.request_duration)
            + self.request_busy.pending(&totals.request_busy)
    }

    pub(super) fn send(
        &mut self,
        recorder: &dyn Recorder,
        clock: &Clock,
        pace: &mut Pace,
        gauges: &mut Gauges,
        now: &RouteNow,
    ) {
        let totals = &now.totals;
        for (sent, total) in self.polls.iter_mut().zip(&totals.polls) {
            sent.send(recorder, clock, pace, total);
        }
        self.schedule_delay.send(recorder, clock, pace, &totals.schedule_delay);
        self.request_duration.send(recorder, clock, pace, &totals.request_duration);
        self.request_busy.send(recorder, clock, pace, &totals.request_busy);
        self.send_stalls(recorder, clock, now);
        for (sent, &total) in self.outcomes.iter_mut().zip(&totals.ended) {
            if total > 0 {
                sent.send(recorder, total);
            }
        }
        if now.handed_off > 0 {
            self.handed_off.send(recorder, now.handed_off);
        }
        gauges.set(recorder, &self.in_flight, Combine::Sum, totals.in_flight() as f64);
        gauges.set(recorder, &self.in_progress, Combine::Max, now.stalled_for.as_secs_f64());
    }

    /// Stalls are few: no pace holds them back.
    fn send_stalls(&mut self, recorder: &dyn Recorder, clock: &Clock, now: &RouteNow) {
        for (&cause, total) in &now.stalls {
            let labels = &self.labels;
            let sent = self.stalls.entry(cause).or_insert_with(|| {
                let cause = Label::from_static_parts("cause", cause.as_str());
                SentSamples::new(key(names::STALLS, labels, Some(cause)))
            });
            sent.send(recorder, clock, &mut Pace::unlimited(), total);
        }
    }
}

fn key(metric: Metric, labels: &[Label; 2], further: Option<Label>) -> Key {
    Key::from_parts(metric.name, labels.iter().cloned().chain(further).collect::<Vec<_>>())
}
