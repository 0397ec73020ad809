//! Who delayed whom, summed over all time.

use std::collections::HashMap;

use crate::routes::RouteId;

/// What a request was delayed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DelayedBy {
    /// A long poll.
    Stall,
    /// Many short polls.
    Load,
    Host,
    Unknown,
}

/// The delays that a route has caused, and those of its own requests by what delayed them, in
/// ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteDelays {
    pub(crate) caused: u64,
    pub(crate) suffered: [u64; DelayedBy::ALL.len()],
}

/// What all routes have caused equals what all routes have suffered by [`DelayedBy::Stall`].
#[derive(Debug, Default)]
pub(crate) struct DelayTotals(HashMap<RouteId, RouteDelays>);

impl DelayedBy {
    pub(crate) const ALL: [Self; 4] = [Self::Stall, Self::Load, Self::Host, Self::Unknown];

    /// Returns the value of the label `by`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stall => "stall",
            Self::Load => "load",
            Self::Host => "host",
            Self::Unknown => "unknown",
        }
    }
}

impl DelayTotals {
    /// Adds a delay of `victim` by a long poll of `culprit`.
    pub(crate) fn add_by_poll(&mut self, victim: RouteId, culprit: RouteId, ticks: u64) {
        self.add(victim, DelayedBy::Stall, ticks);
        self.0.entry(culprit).or_default().caused += ticks;
    }

    /// Adds a delay of `victim` that no route has caused.
    pub(crate) fn add(&mut self, victim: RouteId, by: DelayedBy, ticks: u64) {
        self.0.entry(victim).or_default().suffered[by as usize] += ticks;
    }

    pub(crate) fn of(&self, route: RouteId) -> RouteDelays {
        self.0.get(&route).copied().unwrap_or_default()
    }
}
