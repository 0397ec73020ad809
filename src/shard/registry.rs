//! The shards of one monitor.
//!
//! Shards are never removed. When a thread ends, its shard goes to the next new thread, which
//! continues its counters.

use std::sync::{Arc, OnceLock};

use super::{PollContext, RouteCounters, Shard};
use crate::routes::RouteId;
use crate::sync::Ordering;

/// A list of shards that only grows.
#[derive(Debug)]
pub(crate) struct Shards {
    routes: usize,
    context: PollContext,
    head: OnceLock<Box<Node>>,
}

#[derive(Debug)]
struct Node {
    shard: Arc<Shard>,
    next: OnceLock<Box<Node>>,
}

impl Shards {
    pub(crate) fn new(routes: usize, context: PollContext) -> Self {
        Self { routes, context, head: OnceLock::new() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Shard>> + Clone {
        std::iter::successors(self.head.get(), |node| node.next.get()).map(|node| &node.shard)
    }

    /// Returns the counters of a route, of each thread that has served it.
    pub(crate) fn counters(&self, route: RouteId) -> impl Iterator<Item = &RouteCounters> + Clone {
        self.iter()
            .filter_map(move |shard| shard.routes[route.index()].get().map(|counters| &**counters))
    }

    /// Returns the number of requests in flight, without instrumented tasks.
    pub(crate) fn requests_in_flight(&self) -> usize {
        // Ends before starts: no request is seen to end that is not seen to start. Acquire: pairs
        // with the Release in `Shard::request_ended`.
        let ended: u64 =
            self.iter().map(|shard| shard.requests_ended.load(Ordering::Acquire)).sum();
        let started: u64 =
            self.iter().map(|shard| shard.requests_started.load(Ordering::Relaxed)).sum();
        started.saturating_sub(ended) as usize
    }

    /// Leases a free shard, or a new one, to a thread. It must be released when the thread ends.
    pub(crate) fn acquire(&self) -> Arc<Shard> {
        match self.iter().find(|shard| shard.lease.try_acquire()) {
            Some(free) => Arc::clone(free),
            None => self.push(),
        }
    }

    fn push(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard::new(self.routes, self.context.clone()));
        let mut node = Box::new(Node { shard: Arc::clone(&shard), next: OnceLock::new() });
        let mut end = &self.head;
        loop {
            match end.get() {
                Some(occupied) => end = &occupied.next,
                None => match end.set(node) {
                    Ok(()) => return shard,
                    Err(rejected) => node = rejected,
                },
            }
        }
    }
}
