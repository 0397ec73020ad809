//! A thread's lease of a shard of one monitor.
//!
//! Requests hold the handle by reference, so that a poll needs one comparison: is this the thread
//! that polled the request last?

use std::cell::Cell;
use std::sync::{Arc, Weak};

use crate::routes::RouteId;
use crate::shard::{RouteCounters, Shard, ThreadCounters};
use crate::state::MonitorState;
use crate::sync::{AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct LocalHandle {
    /// The id of the thread that may write to the shard and the counters; `NO_OWNER` once they have
    /// been released. Not the shard's, which may be leased to another thread by then. Relaxed: a
    /// thread compares only with its own id, which only it stores.
    owner: AtomicU64,
    shard: Arc<Shard>,
    counters: ThreadCounters,
    monitor: Weak<MonitorState>,
}

thread_local! {
    /// The id of this thread; 0 before it has one. It needs no destructor, so it is valid until the
    /// very end of the thread.
    static THREAD_ID: Cell<u64> = const { Cell::new(0) };
}

/// Returns the id of this thread; 0 if nothing has been measured on it.
#[inline]
pub(crate) fn thread_id() -> usize {
    THREAD_ID.get() as usize
}

/// Returns the id of this thread, which is assigned at the first call.
fn assign_thread_id() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    if THREAD_ID.get() == 0 {
        // Relaxed: ids only have to be distinct.
        THREAD_ID.set(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    }
    THREAD_ID.get()
}

impl LocalHandle {
    const NO_OWNER: u64 = u64::MAX;

    /// Leases a shard to this thread.
    #[cold]
    pub(super) fn new(monitor: &Arc<MonitorState>) -> Self {
        Self {
            owner: AtomicU64::new(assign_thread_id()),
            shard: monitor.shards.lease(),
            counters: ThreadCounters::new(monitor.routes.len()),
            monitor: Arc::downgrade(monitor),
        }
    }

    /// Returns the counters of a route on this thread.
    #[inline]
    pub(crate) fn counters(&self, route: RouteId) -> &Arc<RouteCounters> {
        self.counters.get_or_create(route, || self.create_counters(route))
    }

    #[cold]
    fn create_counters(&self, route: RouteId) -> Arc<RouteCounters> {
        // Nothing reads what is measured for a monitor that is gone.
        self.monitor.upgrade().map_or_else(Arc::default, |monitor| monitor.counters.create(route))
    }

    /// Returns whether this is the thread that the handle belongs to, and has not been released.
    #[inline(always)]
    pub(super) fn is_of_current_thread(&self) -> bool {
        self.owner.load(Ordering::Relaxed) == THREAD_ID.get()
    }

    #[inline]
    pub(crate) fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    /// Returns the monitor, unless it is gone, in which case nothing reads what is measured.
    pub(super) fn monitor(&self) -> Option<Arc<MonitorState>> {
        self.monitor.upgrade()
    }

    /// Returns whether the monitor is gone.
    pub(super) fn is_orphaned(&self) -> bool {
        self.monitor.strong_count() == 0
    }

    /// Returns the address of the monitor, which is not reused while the handle lives.
    pub(super) fn monitor_address(&self) -> usize {
        self.monitor.as_ptr().addr()
    }

    /// Releases the shard and the counters, unless that has been done.
    pub(super) fn release(&self) {
        // Relaxed: the handle is released by its own thread, or by its drop.
        if self.owner.swap(Self::NO_OWNER, Ordering::Relaxed) == Self::NO_OWNER {
            return;
        }
        if let Some(monitor) = self.monitor.upgrade() {
            for (route, counters) in self.counters.iter() {
                monitor.counters.add_ended(route, counters);
            }
            monitor.shards.release(&self.shard);
        }
    }
}

impl Drop for LocalHandle {
    fn drop(&mut self) {
        self.release();
    }
}
