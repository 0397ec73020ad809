//! Finds the thread of a worker that has been occupied since the monitor was started, so that no
//! task could run there and report it.
//!
//! Tokio starts the threads of all workers one after the other when it builds the runtime, so that
//! the kernel's ids are in the order of the workers. Threads of the blocking pool have the same
//! name, but come later.

use crate::os;
use crate::state::{MonitorState, TOKIO_THREAD_NAME};

/// Assigns threads to the workers whose thread has never been known, where only one assignment is
/// possible. Reads `/proc`, and allocates.
pub(super) fn find_worker_threads(monitor: &MonitorState) {
    let threads = &monitor.worker_threads;
    let known: Vec<_> =
        (0..threads.len()).map(|worker| threads.first_thread(worker).map(|tid| tid.0)).collect();
    if known.iter().all(Option::is_some) {
        return;
    }
    let all = os::threads();
    let is_known = |tid: i32| known.contains(&Some(tid));
    let name =
        all.iter().find(|(tid, _)| is_known(tid.0)).map_or(TOKIO_THREAD_NAME, |(_, name)| name);
    let mut candidates: Vec<_> = all
        .iter()
        .filter(|(tid, other)| other == name && threads.is_unknown(*tid) && !is_known(tid.0))
        .map(|(tid, _)| tid.0)
        .collect();
    candidates.sort_unstable();
    for (worker, tid) in assign(&known, &candidates) {
        threads.set(worker, os::Tid(tid));
    }
}

/// Assigns candidates, in ascending order, to the workers that are not known. A run of such workers
/// takes the candidates between its neighbors, if there are as many; the last run takes the first
/// of those that follow.
fn assign(known: &[Option<i32>], candidates: &[i32]) -> Vec<(usize, i32)> {
    let mut assigned = Vec::new();
    let mut worker = 0;
    while worker < known.len() {
        let len = known[worker..].iter().take_while(|thread| thread.is_none()).count();
        let before = known[..worker].iter().rev().find_map(|thread| *thread);
        let after = known.get(worker + len).copied().flatten();
        let between: Vec<_> = candidates
            .iter()
            .filter(|&&tid| before.is_none_or(|before| before < tid))
            .filter(|&&tid| after.is_none_or(|after| tid < after))
            .collect();
        let is_last = after.is_none() && before.is_some();
        if between.len() == len || (is_last && between.len() > len) {
            assigned.extend((worker..worker + len).zip(between.into_iter().copied()));
        }
        worker += len.max(1);
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_between_two_known_ones_has_the_thread_between_theirs() {
        assert_eq!(assign(&[Some(10), None, Some(12)], &[11]), [(1, 11)]);
        assert_eq!(assign(&[Some(10), None, None, Some(13)], &[11, 12]), [(1, 11), (2, 12)]);
        assert_eq!(assign(&[None, Some(12)], &[11, 14]), [(0, 11)]);
    }

    #[test]
    fn the_last_worker_has_the_first_thread_after_the_others() {
        assert_eq!(assign(&[Some(10), None], &[11, 14, 15]), [(1, 11)]);
    }

    #[test]
    fn nothing_is_assigned_if_more_than_one_assignment_is_possible() {
        assert_eq!(assign(&[Some(10), None, Some(14)], &[11, 12]), []);
        assert_eq!(assign(&[None, Some(12)], &[8, 9]), []);
        assert_eq!(assign(&[None, None], &[8, 9, 10]), []);
        assert_eq!(assign(&[Some(10), None], &[]), []);
        assert_eq!(assign(&[Some(10), Some(11)], &[12]), []);
    }

    #[test]
    fn a_runtime_with_no_other_threads_of_its_name_is_assigned_as_a_whole() {
        assert_eq!(assign(&[None, None], &[8, 9]), [(0, 8), (1, 9)]);
    }
}
