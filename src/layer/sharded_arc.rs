//! A shared pointer whose clones count in several places.
//!
//! A router clones its service for each request, on all threads at once. With one reference count
//! all of them would write to one cache line.

use std::sync::{Arc, OnceLock};

use crate::request::thread_id;

/// An `Arc`. Clones of the first one point to a copy of the value that belongs to the thread which
/// clones it; clones of a clone share its copy. Threads that measure nothing share one copy.
#[derive(Debug)]
pub(super) struct ShardedArc<T>(Arc<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    value: T,
    /// The copies by thread id; only the first value has them. Threads beyond the length share.
    copies: Option<[OnceLock<Arc<Inner<T>>>; 16]>,
}

impl<T: Clone> ShardedArc<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Arc::new(Inner { value, copies: Some(Default::default()) }))
    }

    #[inline]
    pub(super) fn get(&self) -> &T {
        &self.0.value
    }
}

impl<T: Clone> Clone for ShardedArc<T> {
    #[inline]
    fn clone(&self) -> Self {
        let inner = match &self.0.copies {
            Some(copies) => copies[thread_id() % copies.len()].get_or_init(|| self.0.copy()),
            None => &self.0,
        };
        Self(Arc::clone(inner))
    }
}

impl<T: Clone> Inner<T> {
    #[cold]
    fn copy(&self) -> Arc<Self> {
        Arc::new(Self { value: self.value.clone(), copies: None })
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Clock;
    use crate::request::local_handle;
    use crate::state::tests::state;

    fn is_same<T>(one: &ShardedArc<T>, other: &ShardedArc<T>) -> bool {
        Arc::ptr_eq(&one.0, &other.0)
    }

    #[test]
    fn clones_made_on_a_thread_share_a_copy() {
        let monitor = state(Clock::new());
        let first = ShardedArc::new(0);
        let clone = || {
            // A thread has an id once something is measured on it.
            drop(local_handle(&monitor));
            first.clone()
        };
        let (one, two) = (clone(), clone());
        assert!(is_same(&one, &two) && is_same(&one, &one.clone()) && !is_same(&one, &first));
        let other = std::thread::scope(|scope| scope.spawn(clone).join().unwrap());
        assert!(!is_same(&one, &other) && !is_same(&other, &first));
    }
}
