//! The watchdog's check of itself: what kept it from running also kept the other threads from
//! running.

use std::time::Duration;

use crate::os::{self, CgroupCpuStat, Tid};
use crate::state::{DelayKind, MonitorState};

/// A shorter delay is only recorded in the histogram.
const LATE: Duration = Duration::from_millis(10);
/// The age up to which CPU accounts are compared with a delay. They take a few microseconds to
/// read.
const MAX_ACCOUNT_AGE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct SelfCheck {
    /// The watchdog's thread, once it runs.
    thread: Option<Tid>,
    cgroup: CgroupCpuStat,
    /// When the accounts were read, in ticks.
    read_at: u64,
    /// For how long the thread has been on-CPU or in the run queue, and for how long the quota has
    /// kept the process off the CPU.
    accounted: Duration,
}

impl SelfCheck {
    /// Allocates.
    pub(super) fn new() -> Self {
        Self {
            thread: None,
            cgroup: CgroupCpuStat::of_this_process(),
            read_at: 0,
            accounted: Duration::ZERO,
        }
    }

    /// Records by how much the last period of the watchdog was too long, and why.
    pub(super) fn record(&mut self, monitor: &MonitorState, late: Duration) {
        let now = monitor.clock.now();
        self.read_at = self.read_at.min(now);
        let age = monitor.clock.duration(now - self.read_at);
        if self.thread.is_some() && late < LATE && age < MAX_ACCOUNT_AGE {
            return;
        }
        let thread = *self.thread.get_or_insert_with(Tid::current);
        let Some(stat) = os::sched_stat(thread) else { return };
        let cpu = os::thread_cpu_time().unwrap_or_default();
        let accounted = stat.run_delay + cpu + self.cgroup.throttled();
        if late >= LATE {
            let kind = kind(late, accounted.saturating_sub(self.accounted));
            monitor.delays.record(kind, now.saturating_sub(monitor.clock.ticks(late)), now);
        }
        (self.read_at, self.accounted) = (now, accounted);
    }
}

/// A stopped process neither runs nor waits in the run queue.
fn kind(late: Duration, accounted: Duration) -> DelayKind {
    if accounted >= late / 2 { DelayKind::RunQueue } else { DelayKind::Stopped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_without_run_queue_time_is_a_stop() {
        let millis = Duration::from_millis;
        assert_eq!(kind(millis(100), millis(2)), DelayKind::Stopped);
        assert_eq!(kind(millis(100), millis(90)), DelayKind::RunQueue);
    }
}
