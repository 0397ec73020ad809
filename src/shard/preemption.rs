use std::time::Duration;

use crate::os::{self, Tid, duration_nanos};
use crate::sync::{AtomicU64, Ordering};

/// What the kernel has counted of a thread when it was asked last. Read and written only by the
/// owner.
#[derive(Debug, Default)]
pub(crate) struct Preemption {
    preemptions: AtomicU64,
    run_delay_nanos: AtomicU64,
}

impl Preemption {
    /// Forgets the thread. Of the next one, all of its time in the run queue counts at first.
    pub(super) fn reset(&self) {
        self.preemptions.store(0, Ordering::Relaxed);
        self.run_delay_nanos.store(0, Ordering::Relaxed);
    }

    /// Returns for how long the thread may have been preempted since the last call: zero if it was
    /// not preempted, otherwise all of its time in the run queue since the last time that it was.
    ///
    /// A system call, and reading a file if the thread was preempted.
    pub(crate) fn take(&self) -> Duration {
        let Some(preemptions) = os::thread_preemptions() else { return Duration::ZERO };
        if preemptions == self.preemptions.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        self.preemptions.store(preemptions, Ordering::Relaxed);
        let Some(run_delay) = os::run_delay(Tid::current()) else { return Duration::MAX };
        let run_delay = duration_nanos(run_delay);
        let last = self.run_delay_nanos.load(Ordering::Relaxed);
        self.run_delay_nanos.store(run_delay, Ordering::Relaxed);
        Duration::from_nanos(run_delay.saturating_sub(last))
    }
}
