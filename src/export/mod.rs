//! The only module that knows `metrics`: what the cells hold, handed over to the process-wide recorder.

mod catalogue;
mod gauges;
mod pace;
mod route;
mod runtime;
mod sent;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::Recorder;

#[cfg(feature = "prometheus")]
pub(crate) use self::pace::recorder_drains;

use self::gauges::Gauges;
use self::pace::Allowance;
use self::route::{RouteNow, RouteSeries};
use self::runtime::{Counts, RuntimeNow, RuntimeSeries};
use crate::board::Board;
use crate::routes::RouteId;
use crate::shared::Shared;
use crate::stall::Cause;
use crate::watch::{Lag, Pulse};

/// Prefix of the names of all metrics.
#[cfg(feature = "prometheus")]
pub(crate) const PREFIX: &str = "tower_stall_";

/// Hands the cells of one monitor over.
#[derive(Debug)]
pub(crate) struct Exporter {
    lag: Arc<Lag>,
    pulse: Arc<Pulse>,
    runtime: RuntimeSeries,
    routes: HashMap<RouteId, RouteSeries>,
    gauges: Gauges,
    allowance: Allowance,
    flushed_at: Instant,
}

/// Stalls that go on at one moment.
struct Stalled {
    by_route: HashMap<RouteId, Duration>,
    /// By index: one that was handed to another thread meanwhile counts once.
    workers: BTreeMap<usize, Duration>,
}

impl Exporter {
    pub(crate) fn new(shared: &Shared, lag: Arc<Lag>, pulse: Arc<Pulse>) -> Self {
        Self {
            lag,
            pulse,
            runtime: RuntimeSeries::new(&shared.runtime_name, &shared.runtime.metrics()),
            routes: HashMap::new(),
            gauges: Gauges::new(),
            allowance: Allowance::new(),
            flushed_at: Instant::now(),
        }
    }

    /// Hands over what has changed since the last time, to whatever recorder there is by now.
    pub(crate) fn flush(&mut self, shared: &Shared, board: &Board) {
        metrics::with_recorder(|recorder| self.flush_to(recorder, shared, board));
    }

    /// Takes the gauges back, as nobody will set them any more.
    pub(crate) fn close(&mut self) {
        metrics::with_recorder(|recorder| self.gauges.take_back(recorder));
    }

    fn flush_to(&mut self, recorder: &dyn Recorder, shared: &Shared, board: &Board) {
        catalogue::describe(recorder);
        let stalled = Stalled::now(shared);
        self.flush_routes(recorder, shared, board, &stalled);
        let now = self.runtime_now(shared, board, stalled.workers);
        self.runtime.send(recorder, &shared.clock, &mut self.gauges, &now);
    }

    fn flush_routes(&mut self, recorder: &dyn Recorder, shared: &Shared, board: &Board, stalled: &Stalled) {
        let mut due = Vec::new();
        for (id, route) in shared.routes.iter() {
            let totals = shared.totals(id);
            let mut stalls = board.read().stalls.get(&id).cloned().unwrap_or_default();
            let handed_off = board.read().handed_off.get(&id).copied().unwrap_or_default();
            // What is unattributed has no requests.
            if totals.started == 0 && stalls.is_empty() && !stalled.by_route.contains_key(&id) {
                continue;
            }
            if totals.unreported_stalls.count() > 0 {
                stalls.entry(Cause::Unknown).or_default().merge(&totals.unreported_stalls);
            }
            let stalled_for = stalled.by_route.get(&id).copied().unwrap_or_default();
            self.routes.entry(id).or_insert_with(|| RouteSeries::new(route));
            due.push((id, RouteNow { totals, stalls, handed_off, stalled_for }));
        }
        let pending = due.iter().filter_map(|(id, now)| Some(self.routes.get(id)?.pending(now))).sum();
        let mut pace = self.allowance.pace(self.flushed_at.elapsed(), pending);
        self.flushed_at = Instant::now();
        for (id, now) in &due {
            if let Some(series) = self.routes.get_mut(id) {
                series.send(recorder, &shared.clock, &mut pace, &mut self.gauges, now);
            }
        }
    }

    fn runtime_now(&self, shared: &Shared, board: &Board, stalled: BTreeMap<usize, Duration>) -> RuntimeNow {
        let found = board.read();
        RuntimeNow {
            metrics: shared.runtime.metrics(),
            lag: self.lag.totals(),
            stalled,
            late: self.pulse.late(),
            counts: Counts {
                rescues: shared.inbox.rescues(),
                suppressed: found.suppressed,
                overflowed: shared.routes.overflowed(),
                dropped: shared.inbox.dropped(),
                hook_panics: found.hook_panics,
                captures: shared.captures.counted(),
                ticks: self.pulse.ticks(),
            },
        }
    }
}

impl Stalled {
    fn now(shared: &Shared) -> Self {
        let mut stalled = Self { by_route: HashMap::new(), workers: BTreeMap::new() };
        for now in shared.stalled() {
            let age = shared.clock.duration(now.age);
            let oldest = stalled.by_route.entry(now.poll.route).or_default();
            *oldest = age.max(*oldest);
            if let Some(worker) = now.worker {
                let oldest = stalled.workers.entry(worker).or_default();
                *oldest = age.max(*oldest);
            }
        }
        stalled
    }
}
