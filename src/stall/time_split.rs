use std::time::Duration;

/// Where the time of a stall went. The parts add up to its duration exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeSplit {
    /// The thread was on-CPU.
    pub(crate) cpu: Duration,
    /// The thread was off-CPU, in a system call or on a lock. Also time of which nothing is known.
    pub(crate) off_cpu: Duration,
    /// The thread was runnable, but waited in the run queue, or for its CPU quota.
    pub(crate) run_queue: Duration,
    /// The whole process was stopped.
    pub(crate) stopped: Duration,
}

impl TimeSplit {
    /// The values of the label `on`, in the order of [`parts`](Self::parts).
    pub(crate) const NAMES: [&'static str; 4] = ["cpu", "off_cpu", "run_queue", "stopped"];

    pub(crate) fn parts(&self) -> [Duration; 4] {
        [self.cpu, self.off_cpu, self.run_queue, self.stopped]
    }

    /// Returns the time that the code is responsible for.
    pub(crate) fn own(&self) -> Duration {
        self.cpu + self.off_cpu
    }

    /// Returns the time that the host is responsible for.
    pub(crate) fn host(&self) -> Duration {
        self.run_queue + self.stopped
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.cpu += other.cpu;
        self.off_cpu += other.off_cpu;
        self.run_queue += other.run_queue;
        self.stopped += other.stopped;
    }
}
