//! The watchdog's check of itself: why did it not run in time?
//!
//! If it waited in the run queue, so may the other threads have. If the whole process was stopped,
//! so were they. But the watchdog may also have been blocked alone, most of all by a page fault: a
//! `fork` or `munmap` by another thread holds the lock of the address space, for as long as the
//! process has much memory.

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
    /// The number of CPUs that the process may use.
    cpus: u32,
    /// When the accounts were read, in ticks.
    read_at: u64,
    /// For how long the thread has been on-CPU or in the run queue, and for how long the quota has
    /// kept the process off the CPU.
    accounted: Duration,
    /// Signs of life at the last call.
    life: SignsOfLife,
}

/// What does not change while the process is stopped.
#[derive(Clone, Copy, Debug, Default)]
struct SignsOfLife {
    /// The CPU time of all threads of the process.
    cpu: Duration,
    /// The page faults of the watchdog's thread. It has hardly any unless another thread changes
    /// the address space.
    page_faults: u64,
}

/// One period of the watchdog, from one wake-up to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Period {
    pub(super) length: Duration,
    /// The part that it meant to sleep.
    pub(super) pause: Duration,
}

// === impl SelfCheck ===

impl SelfCheck {
    /// Allocates.
    pub(super) fn new() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            thread: None,
            cgroup: CgroupCpuStat::of_this_process(),
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            read_at: 0,
            accounted: Duration::ZERO,
            life: SignsOfLife::now(),
        }
    }

    /// Records by how much the last period of the watchdog was too long, and why. Returns whether
    /// the host was the cause, if it was much too long.
    pub(super) fn record(&mut self, monitor: &MonitorState, period: Period) -> bool {
        let late = period.length.saturating_sub(period.pause);
        let now = monitor.clock.now();
        let life = std::mem::replace(&mut self.life, SignsOfLife::now());
        self.read_at = self.read_at.min(now);
        let age = monitor.clock.duration(now - self.read_at);
        if self.thread.is_some() && late < LATE && age < MAX_ACCOUNT_AGE {
            return true;
        }
        let thread = *self.thread.get_or_insert_with(Tid::current);
        let Some(run_delay) = os::run_delay(thread) else { return true };
        let cpu = os::thread_cpu_time().unwrap_or_default();
        let accounted = run_delay + cpu + self.cgroup.throttled();
        let mut is_host_delay = true;
        if late >= LATE {
            let is_alive = life.have_changed(&self.life, period, self.cpus);
            let kind = kind(late, accounted.saturating_sub(self.accounted), is_alive);
            is_host_delay = kind.is_some();
            if let Some(kind) = kind {
                monitor.delays.record(kind, now.saturating_sub(monitor.clock.ticks(late)), now);
            }
        }
        (self.read_at, self.accounted) = (now, accounted);
        is_host_delay
    }
}

// === impl SignsOfLife ===

impl SignsOfLife {
    fn now() -> Self {
        Self {
            cpu: os::process_cpu_time().unwrap_or_default(),
            page_faults: os::thread_page_faults().unwrap_or_default(),
        }
    }

    /// Returns whether the process was alive while the watchdog was late: the watchdog has had a
    /// page fault, or the process has used more CPU time than it could in the rest of the period.
    fn have_changed(&self, now: &Self, period: Period, cpus: u32) -> bool {
        let late = period.length.saturating_sub(period.pause);
        let on_time = period.length - late;
        let used = now.cpu.saturating_sub(self.cpu);
        // The kernel updates the CPU time of a running thread at its ticks, up to 10 ms apart.
        let limit = on_time.saturating_mul(cpus) + (late / 8).max(LATE);
        now.page_faults != self.page_faults || used > limit
    }
}

/// Returns what kind of delay by the host it was. A stopped process neither runs nor waits in the
/// run queue; `None` if only the watchdog itself was blocked.
fn kind(late: Duration, accounted: Duration, is_alive: bool) -> Option<DelayKind> {
    if accounted >= late / 2 {
        Some(DelayKind::RunQueue)
    } else if is_alive {
        None
    } else {
        Some(DelayKind::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_delay_without_run_queue_time_or_signs_of_life_is_a_stop() {
        assert_eq!(kind(millis(100), millis(2), false), Some(DelayKind::Stopped));
        assert_eq!(kind(millis(100), millis(90), false), Some(DelayKind::RunQueue));
        assert_eq!(kind(millis(100), millis(90), true), Some(DelayKind::RunQueue));
        assert_eq!(kind(millis(100), millis(2), true), None, "the watchdog alone was blocked");
    }

    #[test]
    fn a_process_that_uses_cpu_or_changes_its_memory_meanwhile_is_alive() {
        let before = SignsOfLife { cpu: millis(500), page_faults: 7 };
        let is_alive = |cpu: u64, page_faults| {
            let now = SignsOfLife { cpu: millis(500 + cpu), page_faults };
            before.have_changed(&now, Period { length: millis(85), pause: millis(5) }, 4)
        };
        assert!(!is_alive(0, 7));
        assert!(!is_alive(30, 7), "four CPUs during the pause");
        assert!(is_alive(31, 7));
        assert!(is_alive(0, 8));
    }
}
