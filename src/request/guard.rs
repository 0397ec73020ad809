//! The drop guard of one request.

use std::sync::Arc;

use http::Response;
use http_body::Body;

use super::local_handle::LocalHandle;
use super::pool;
use super::record::RequestRecord;
use super::thread_local::{acquire_record, rebind_record, request_route};
use crate::routes::{MethodLabel, RequestRoute};
use crate::shard::Shard;
use crate::state::MonitorState;
use crate::trace::SpanRef;

/// Measures one request, or one instrumented task, or nothing.
///
/// The request starts when the guard is created and is accounted for when it is dropped, whatever
/// happens in between. The guard is one word, so that futures and bodies hardly grow.
#[derive(Debug, Default)]
pub(crate) struct RequestGuard(Option<Box<RequestRecord>>);

impl RequestGuard {
    /// Starts a request. It is not measured if it is part of a request that the same monitor
    /// already measures.
    #[inline]
    pub(crate) fn request(
        monitor: &Arc<MonitorState>,
        method: MethodLabel,
        route: impl FnOnce(&LocalHandle) -> RequestRoute,
    ) -> Self {
        // Before anything else, because a subscriber may panic.
        let span = SpanRef::current_id();
        let mut record = acquire_record(monitor);
        let state = record.state_mut();
        if state.shard.current_poll.is_active() && is_inside_a_request(&state.shard, monitor) {
            pool::recycle(record);
            return Self::default();
        }
        let route = route(&state.local);
        state.start_request(method, route, span);
        Self(Some(record))
    }

    /// Starts an instrumented task.
    pub(crate) fn task(monitor: &Arc<MonitorState>, name: &str) -> Self {
        let span = SpanRef::current_id();
        let mut record = acquire_record(monitor);
        let state = record.state_mut();
        let route = request_route(&state.local, &monitor.routes, MethodLabel::TASK, name);
        state.start_task(route, span);
        Self(Some(record))
    }

    /// Returns the record, bound to the current thread. `None` if nothing is measured, or if the
    /// monitor is gone.
    #[inline(always)]
    pub(crate) fn bind_to_current_thread(&mut self) -> Option<&mut RequestRecord> {
        if self.0.as_ref().is_some_and(|record| !record.state().is_on_current_thread()) {
            self.rebind();
        }
        self.0.as_deref_mut()
    }

    /// Returns the record, which is bound to the thread that started the request. For the call that
    /// the request starts with.
    #[inline(always)]
    pub(crate) fn record(&mut self) -> Option<&mut RequestRecord> {
        self.0.as_deref_mut()
    }

    /// Moves the guard from the future to the body. The guard is empty if there is no body.
    #[inline]
    pub(crate) fn take_for_body<B: Body>(&mut self, response: &Response<B>) -> Self {
        let mut guard = std::mem::take(self);
        if guard.0.as_mut().is_some_and(|record| record.state_mut().on_response(response)) {
            guard.end_without_body();
        }
        guard
    }

    /// Ends the request, whose service returned an error.
    #[cold]
    pub(crate) fn end_with_error(&mut self) {
        if let Some(record) = &mut self.0 {
            record.on_error();
        }
        self.end();
    }

    #[cold]
    fn end_without_body(&mut self) {
        self.end();
    }

    /// Ends the request at the end of the poll that was measured last.
    #[inline(always)]
    pub(crate) fn end(&mut self) {
        if let Some(record) = self.0.take() {
            record.state().end(record.state().last_poll_end);
            pool::recycle(record);
        }
    }

    #[cold]
    fn rebind(&mut self) {
        let is_bound = self.0.as_mut().is_some_and(|record| rebind_record(record));
        if !is_bound {
            self.0 = None;
        }
    }
}

impl Drop for RequestGuard {
    #[inline]
    fn drop(&mut self) {
        if let Some(record) = self.0.take() {
            end_dropped(record);
        }
    }
}

/// Ends a request now, on whichever thread drops it.
fn end_dropped(mut record: Box<RequestRecord>) {
    if !record.state().is_on_current_thread() && !rebind_record(&mut record) {
        return;
    }
    let state = record.state();
    state.end(state.shard.context.clock.now());
    pool::recycle(record);
}

#[cold]
fn is_inside_a_request(shard: &Shard, monitor: &MonitorState) -> bool {
    shard.current_poll.read().is_some_and(|poll| !monitor.routes.is_task(poll.route))
}
