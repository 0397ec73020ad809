//! The state that each thread keeps of the monitors that measure something on it.

use std::cell::RefCell;
use std::sync::Arc;

use super::local_handle::LocalHandle;
use super::pool;
use super::record::RequestRecord;
use crate::os::Tid;
use crate::routes::{MethodLabel, RequestRoute, RouteIds, Routes};
use crate::state::MonitorState;

/// The entry of one monitor, until the thread ends.
#[derive(Debug)]
struct LocalEntry {
    handle: Arc<LocalHandle>,
    /// The ids of the routes that the thread has served.
    route_ids: RouteIds,
}

thread_local! {
    static LOCALS: RefCell<Vec<LocalEntry>> = const { RefCell::new(Vec::new()) };
}

/// Returns this thread's handle. A thread that is ending gets a temporary one.
pub(crate) fn local_handle(monitor: &Arc<MonitorState>) -> Arc<LocalHandle> {
    let handle = LOCALS.try_with(|locals| {
        let mut locals = locals.borrow_mut();
        match locals.iter().find(|entry| entry.is_of(monitor)) {
            Some(entry) => Arc::clone(&entry.handle),
            None => LocalEntry::add(&mut locals, monitor),
        }
    });
    handle.unwrap_or_else(|_| Arc::new(LocalHandle::new(monitor)))
}

/// Returns a record that is bound to this thread.
#[inline(always)]
pub(super) fn acquire_record(monitor: &Arc<MonitorState>) -> Box<RequestRecord> {
    let allocate = || RequestRecord::new(local_handle(monitor), monitor.requests.register());
    pool::take(monitor).unwrap_or_else(allocate)
}

/// Binds a record to this thread. Returns `false` if the monitor is gone.
#[cold]
pub(super) fn rebind_record(record: &mut RequestRecord) -> bool {
    let monitor = record.state().local.monitor();
    monitor.is_some_and(|monitor| {
        record.state_mut().rebind(local_handle(&monitor));
        true
    })
}

/// Returns the route of a new request or task, from this thread's cache if it is there.
pub(crate) fn request_route(
    local: &LocalHandle,
    routes: &Routes,
    method: MethodLabel,
    name: &str,
) -> RequestRoute {
    let cached = LOCALS.try_with(|locals| {
        let mut locals = locals.borrow_mut();
        let mut entries = locals.iter_mut();
        let entry = entries.find(|entry| Arc::ptr_eq(entry.handle.shard(), local.shard()))?;
        Some(entry.request_route(routes, method, name))
    });
    cached.ok().flatten().unwrap_or_else(|| routes.of_request(method, Some(name)))
}

impl LocalEntry {
    #[cold]
    fn add(locals: &mut Vec<Self>, monitor: &Arc<MonitorState>) -> Arc<LocalHandle> {
        locals.retain(|entry| !entry.handle.is_orphaned());
        pool::reserve();
        let handle = Arc::new(LocalHandle::new(monitor));
        monitor.update_worker_index(handle.shard(), None);
        handle.shard().set_tid(Tid::current());
        locals.push(Self { handle: Arc::clone(&handle), route_ids: RouteIds::default() });
        handle
    }

    fn is_of(&self, monitor: &Arc<MonitorState>) -> bool {
        self.handle.monitor_address() == Arc::as_ptr(monitor).addr()
    }

    fn request_route(&mut self, routes: &Routes, method: MethodLabel, name: &str) -> RequestRoute {
        match self.route_ids.get(method, name) {
            Some(id) => id.into(),
            None => self.look_up(routes, method, name),
        }
    }

    #[cold]
    fn look_up(&mut self, routes: &Routes, method: MethodLabel, name: &str) -> RequestRoute {
        let route = routes.of_request(method, Some(name));
        // Names that were altered or have no id of their own are unbounded in number.
        if route.candidate.is_none() && routes.is_named(route.id, name) {
            self.route_ids.insert(method, name, route.id);
        }
        route
    }
}

impl Drop for LocalEntry {
    /// Runs when the thread ends. A future that the thread has polled may outlive it, and must not
    /// write to a shard that is another thread's by then.
    fn drop(&mut self) {
        pool::close();
        self.handle.release();
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Clock;
    use crate::routes::RouteId;
    use crate::shard::Outcome;
    use crate::state::tests::state;

    fn monitor() -> Arc<MonitorState> {
        state(Clock::new())
    }

    fn route(monitor: &MonitorState) -> RouteId {
        monitor.routes.id(MethodLabel::HEAD, "/a")
    }

    fn start_request(monitor: &Arc<MonitorState>) {
        local_handle(monitor).counters(route(monitor)).start_request();
    }

    #[test]
    fn a_thread_keeps_its_shard_and_a_later_thread_continues_it() {
        let monitor = monitor();
        let route = route(&monitor);
        for _ in 0..4 {
            let monitor = Arc::clone(&monitor);
            let thread = std::thread::spawn(move || {
                for _ in 0..2 {
                    let handle = local_handle(&monitor);
                    let counters = handle.counters(route);
                    counters.start_request();
                    counters.end_request(&monitor.bounds, Outcome::Success, 1, 1);
                }
            });
            thread.join().unwrap();
        }
        let first = monitor.shards.lease();
        assert_eq!(monitor.shards.leased().count(), 1, "each thread had the same shard");
        monitor.shards.release(&first);
        let totals = monitor.totals(route);
        assert_eq!((totals.started, totals.ended(), totals.in_flight()), (8, 8, 0));
    }

    #[test]
    fn concurrent_threads_have_separate_shards() {
        let monitor = monitor();
        let barrier = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let handle = local_handle(&monitor);
                    barrier.wait();
                    assert!(handle.is_of_current_thread());
                    assert_eq!(monitor.shards.leased().count(), 4);
                    barrier.wait();
                });
            }
        });
    }

    #[test]
    fn a_request_that_starts_while_its_thread_ends_is_counted() {
        struct Late(Arc<MonitorState>);
        impl Drop for Late {
            fn drop(&mut self) {
                start_request(&self.0);
            }
        }
        thread_local!(static LATE: RefCell<Option<Late>> = const { RefCell::new(None) });
        let monitor = monitor();
        let for_thread = Arc::clone(&monitor);
        let thread = std::thread::spawn(move || {
            LATE.with(|late| late.replace(Some(Late(Arc::clone(&for_thread)))));
            start_request(&for_thread);
        });
        thread.join().unwrap();
        assert_eq!(monitor.totals(route(&monitor)).started, 2);
        assert_eq!(monitor.shards.leased().count(), 0, "both handles released the shard");
    }

    #[test]
    fn a_handle_that_outlives_its_thread_does_not_own_the_shard() {
        let monitor = monitor();
        let for_thread = Arc::clone(&monitor);
        let ended = std::thread::spawn(move || local_handle(&for_thread)).join().unwrap();
        assert!(!ended.is_of_current_thread());
        let current = local_handle(&monitor);
        assert!(Arc::ptr_eq(ended.shard(), current.shard()), "the shard is reused");
        assert!(current.is_of_current_thread());
        drop(ended);
        let for_thread = Arc::clone(&monitor);
        let other =
            std::thread::spawn(move || Arc::as_ptr(local_handle(&for_thread).shard()).addr());
        let current = Arc::as_ptr(current.shard()).addr();
        assert_ne!(other.join().unwrap(), current, "the shard was released once");
    }

    #[test]
    fn entries_of_monitors_that_are_gone_are_dropped() {
        for _ in 0..8 {
            let _handle = local_handle(&monitor());
        }
        let entries = LOCALS.with_borrow(Vec::len);
        assert!(entries <= 2, "{entries} entries");
    }
}
