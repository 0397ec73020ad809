//! The stalls in progress at one moment.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::routes::RouteId;
use crate::state::MonitorState;

/// The age of the oldest stall in progress of each route and worker that has one.
#[derive(Debug)]
pub(super) struct OldestStalls {
    pub(super) by_route: HashMap<RouteId, Duration>,
    pub(super) by_worker: BTreeMap<usize, Duration>,
}

impl OldestStalls {
    pub(super) fn now(monitor: &MonitorState) -> Self {
        let mut stalls = Self { by_route: HashMap::new(), by_worker: BTreeMap::new() };
        for stall in monitor.stalls_in_progress() {
            let age = monitor.clock.duration(stall.age);
            let oldest = stalls.by_route.entry(stall.poll.route).or_default();
            *oldest = age.max(*oldest);
            if let Some(worker) = stall.worker {
                let oldest = stalls.by_worker.entry(worker).or_default();
                *oldest = age.max(*oldest);
            }
        }
        stalls
    }
}
