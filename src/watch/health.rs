//! The watchdog's own health: what kept it from running kept everybody from running.

use std::time::{Duration, Instant};

use crate::os::{self, Quota, Tid};
use crate::shared::{Hitch, Shared};

/// A shorter delay is told in a histogram only.
const LATE: Duration = Duration::from_millis(10);
/// How old the accounts may be that a delay is compared with: they cost a few microseconds to read.
const STALE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Health {
    /// The watchdog's thread, once it runs.
    thread: Option<Tid>,
    quota: Quota,
    read_at: Instant,
    /// How long its thread has run or waited for a core, and how long the quota has kept the process off the cores.
    accounted: Duration,
}

impl Health {
    /// Allocates.
    pub(super) fn new() -> Self {
        Self { thread: None, quota: Quota::of_this_process(), read_at: Instant::now(), accounted: Duration::ZERO }
    }

    /// Notes by how much the watchdog's last round took longer than it should have, and why.
    pub(super) fn note(&mut self, shared: &Shared, late: Duration) {
        if self.thread.is_some() && late < LATE && self.read_at.elapsed() < STALE {
            return;
        }
        let thread = *self.thread.get_or_insert_with(Tid::current);
        let Some(turns) = os::turns(thread) else { return };
        let accounted = turns.waited + os::own_cpu_time().unwrap_or_default() + self.quota.throttled();
        if late >= LATE {
            let kind = kind(late, accounted.saturating_sub(self.accounted));
            let now = shared.clock.now();
            shared.hitches.note(kind, now.saturating_sub(shared.clock.ticks(late)), now);
        }
        (self.read_at, self.accounted) = (Instant::now(), accounted);
    }
}

/// A process that is stopped neither runs nor waits for a core.
fn kind(late: Duration, accounted: Duration) -> Hitch {
    if accounted >= late / 2 { Hitch::Queue } else { Hitch::Pause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_neither_ran_nor_waited_was_stopped() {
        let millis = Duration::from_millis;
        assert_eq!(kind(millis(100), millis(2)), Hitch::Pause);
        assert_eq!(kind(millis(100), millis(90)), Hitch::Queue);
    }
}
