use std::sync::{Arc, OnceLock};

use super::entrance::Entrance;
use crate::own;

/// A service's share in its entrance.
///
/// A router clones the service for each request, on all threads at once, and all of them would write to the one place where the clones
/// are counted. So those that a thread makes of the first service share an entrance of their own.
#[derive(Debug)]
pub(super) struct Entry(Arc<Shares>);

/// An entrance, and of the first service those of its clones.
#[derive(Debug)]
struct Shares {
    entrance: Entrance,
    /// By the thread's number. Where there are more threads than that, some share one.
    of_threads: Option<[OnceLock<Arc<Shares>>; 16]>,
}

impl Entry {
    /// That of a first service.
    pub(super) fn new(entrance: Entrance) -> Self {
        Self(Arc::new(Shares { entrance, of_threads: Some(Default::default()) }))
    }

    #[inline]
    pub(super) fn entrance(&self) -> &Entrance {
        &self.0.entrance
    }
}

impl Clone for Entry {
    #[inline]
    fn clone(&self) -> Self {
        let shares = match &self.0.of_threads {
            Some(of_threads) => of_threads[own::thread() % of_threads.len()].get_or_init(|| self.0.copy()),
            None => &self.0,
        };
        Self(Arc::clone(shares))
    }
}

impl Shares {
    #[cold]
    fn copy(&self) -> Arc<Self> {
        Arc::new(Self { entrance: self.entrance.copy(), of_threads: None })
    }
}

#[cfg(all(test, not(tower_stall_loom)))]
mod tests {
    use tower_layer::Layer;

    use super::*;
    use crate::StallMonitor;
    use crate::own::Own;

    fn same(one: &Entry, other: &Entry) -> bool {
        Arc::ptr_eq(&one.0, &other.0)
    }

    #[test]
    fn clones_that_a_thread_makes_share_an_entrance_of_their_own() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let layer = StallMonitor::builder().runtime(runtime.handle().clone()).spawn().unwrap().layer();
        let first = layer.layer(()).entry;
        let clone_here = || {
            // Threads have a number once something is measured on them.
            drop(Own::of(layer.watch.shared()));
            first.clone()
        };
        let (one, two) = (clone_here(), clone_here());
        assert!(same(&one, &two) && same(&one, &one.clone()) && !same(&one, &first));
        let other = std::thread::scope(|scope| scope.spawn(clone_here).join().unwrap());
        assert!(!same(&one, &other) && !same(&other, &first));
    }
}
