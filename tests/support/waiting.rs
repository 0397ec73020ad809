//! Waiting for a condition, with one deadline for all tests.

use std::time::{Duration, Instant};

/// How long a test waits for something that must happen. Only a failing test waits this long, so it
/// leaves room for a machine that is busy with other processes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

const PAUSE: Duration = Duration::from_millis(2);

/// Blocks the thread until a condition holds; panics after [`DEADLINE`].
#[track_caller]
pub(crate) fn eventually(condition: &str, mut holds: impl FnMut() -> bool) {
    let met = poll_until(|| holds().then_some(()));
    assert!(met.is_some(), "timed out waiting for: {condition}");
}

/// Calls a function until it returns `Some`, or until [`DEADLINE`] has passed.
pub(crate) fn poll_until<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        let found = attempt();
        if found.is_some() {
            return found;
        }
        std::thread::sleep(PAUSE);
    }
    None
}

/// Waits until a condition holds without blocking the thread; panics after [`DEADLINE`].
///
/// For tests whose own thread is a worker that must not stall.
pub(crate) async fn eventually_async(condition: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "timed out waiting for: {condition}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Panics unless a condition holds during all of a bounded time.
///
/// For what must *not* happen, which can only be observed for a while.
#[track_caller]
pub(crate) fn holds_for(time: Duration, condition: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < time {
        assert!(holds(), "violated after {:?}: {condition}", start.elapsed());
        std::thread::sleep(PAUSE);
    }
}
