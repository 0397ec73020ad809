//! Whether the control group's CPU quota has kept the process off the cores of late.

use std::time::{Duration, Instant};

use crate::os::Quota;

/// The kernel accounts for it core by core, and for some of them late: what counts is the growth over a second or two.
#[derive(Debug)]
pub(super) struct Throttling {
    quota: Quota,
    /// The account when it was last read, and when it was read before that.
    read: [(Instant, Duration); 2],
}

impl Throttling {
    const PERIOD: Duration = Duration::from_secs(1);

    pub(super) fn new() -> Self {
        let quota = Quota::of_this_process();
        let now = (Instant::now(), quota.throttled());
        Self { quota, read: [now, now] }
    }

    /// Reads the account, if it is time. To be called about once a second.
    pub(super) fn read(&mut self) {
        if self.read[1].0.elapsed() >= Self::PERIOD {
            self.read = [self.read[1], (Instant::now(), self.quota.throttled())];
        }
    }

    /// By how much it has grown in the last second or two.
    pub(super) fn lately(&self) -> Duration {
        self.quota.throttled().saturating_sub(self.read[0].1)
    }
}
