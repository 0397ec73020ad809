//! Systems on which another thread cannot be observed.

use std::time::Duration;

use crate::os::{ThreadState, Tid};

impl Tid {
    pub(crate) fn current() -> Self {
        Self::default()
    }
}

pub(super) fn state_and_cpu_time(_: Tid) -> Option<(ThreadState, Duration)> {
    None
}

pub(crate) fn process_cpu_time() -> Option<Duration> {
    None
}

pub(crate) fn thread_cpu_time() -> Option<Duration> {
    None
}
