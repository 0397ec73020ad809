use std::time::{Duration, Instant};

use crate::os::CgroupCpuStat;

/// Whether the CPU quota of the control group has kept the process off the CPU recently.
///
/// The kernel accounts for throttling core by core, and for some cores late, so the growth over one
/// to two seconds counts.
#[derive(Debug)]
pub(super) struct CpuQuota {
    cgroup: CgroupCpuStat,
    /// The total at the last two readings.
    readings: [(Instant, Duration); 2],
}

impl CpuQuota {
    const PERIOD: Duration = Duration::from_secs(1);

    pub(super) fn new() -> Self {
        let cgroup = CgroupCpuStat::of_this_process();
        let now = (Instant::now(), cgroup.throttled());
        Self { cgroup, readings: [now, now] }
    }

    /// Reads the total, if a second has passed.
    pub(super) fn update(&mut self) {
        if self.readings[1].0.elapsed() >= Self::PERIOD {
            self.readings = [self.readings[1], (Instant::now(), self.cgroup.throttled())];
        }
    }

    /// Returns by how much the total has grown in the last one to two seconds.
    pub(super) fn recent(&self) -> Duration {
        self.cgroup.throttled().saturating_sub(self.readings[0].1)
    }
}
