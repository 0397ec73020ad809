//! Finds the thread of a worker that has been occupied since the monitor was started, so that no
//! task could run there and report it.
//!
//! Tokio starts the threads of all workers when it builds the runtime, though not in the order of
//! the workers. Threads of the blocking pool have the same name, but come later. So the thread of
//! the one worker that is missing has an id between those of the others, or next to them.

use crate::os;
use crate::state::{MonitorState, TOKIO_THREAD_NAME};

/// Finds the thread of the only worker whose thread has never been known, if there is one. Reads
/// `/proc`, and allocates.
pub(super) fn find_worker_thread(monitor: &MonitorState) {
    let threads = &monitor.worker_threads;
    let mut missing = (0..threads.len()).filter(|&worker| threads.first_thread(worker).is_none());
    let (Some(worker), None) = (missing.next(), missing.next()) else { return };
    let known: Vec<_> =
        (0..threads.len()).filter_map(|worker| threads.first_thread(worker)).collect();
    let all = os::threads();
    let is_known = |tid: &os::Tid| known.contains(tid);
    let name =
        all.iter().find(|(tid, _)| is_known(tid)).map_or(TOKIO_THREAD_NAME, |(_, name)| name);
    let candidates: Vec<_> = all
        .iter()
        .filter(|(tid, other)| other == name && threads.is_unknown(*tid) && !is_known(tid))
        .map(|(tid, _)| tid.0)
        .collect();
    let known: Vec<_> = known.iter().map(|tid| tid.0).collect();
    if let Some(thread) = missing_thread(&known, &candidates) {
        threads.set(worker, os::Tid(thread), monitor.clock.now());
    }
}

/// Returns the candidate that belongs to the threads of the other workers: the only one between or
/// before them, or otherwise the first after them. `None` if there are several.
fn missing_thread(known: &[u64], candidates: &[u64]) -> Option<u64> {
    let (first, last) = (known.iter().min(), known.iter().max());
    let is_before = |&&tid: &&u64| first.is_some_and(|&first| tid < first);
    let is_after = |tid: &&u64| !is_before(tid) && last.is_none_or(|&last| **tid > last);
    let is_between = |tid: &&u64| !is_before(tid) && !is_after(tid);
    let after = candidates.iter().filter(is_after).min();
    let mut inside: Vec<_> = candidates.iter().filter(is_between).collect();
    if inside.is_empty() {
        inside = candidates.iter().filter(is_before).collect();
    }
    match inside[..] {
        [] => after.copied(),
        [only] => Some(*only),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_thread_is_between_or_before_the_others() {
        assert_eq!(missing_thread(&[12, 10], &[11, 20]), Some(11));
        assert_eq!(missing_thread(&[11, 12], &[10, 20]), Some(10));
    }

    #[test]
    fn threads_of_the_blocking_pool_come_later() {
        assert_eq!(missing_thread(&[10, 11], &[14, 12, 15]), Some(12));
        assert_eq!(missing_thread(&[], &[14, 12]), Some(12), "the only worker");
    }

    #[test]
    fn no_thread_is_taken_if_there_are_several() {
        assert_eq!(missing_thread(&[10, 14], &[11, 12]), None);
        assert_eq!(missing_thread(&[10, 11], &[8, 9]), None);
        assert_eq!(missing_thread(&[10], &[]), None);
    }
}
