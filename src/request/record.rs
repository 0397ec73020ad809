//! The state of one request, or of one instrumented task.
//!
//! A record stays where it is, however often the future and the body move, and is recycled for a
//! later request of the same thread.

use std::sync::Arc;

use bytes::Buf;
use http::Response;
use http_body::{Body, Frame};

use super::answer::is_of_a_route;
use super::completion::Completion;
use super::local_handle::LocalHandle;
use super::waker::StampedWaker;
use crate::routes::{MethodLabel, RequestRoute, RouteId, Routes};
use crate::shard::{RouteCounters, Shard};
use crate::state::{MonitorState, RequestActivity};

/// One allocation: the state of a request, and the waker of its polls.
///
/// Aligned so that no two threads write to one cache line; the state comes first, so that both have
/// the same address.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct RequestRecord {
    state: RequestState,
    waker: StampedWaker,
    /// The address of the monitor, which is not reused while `state` holds a handle to it.
    monitor: usize,
}

/// Times are in ticks.
#[derive(Debug)]
pub(crate) struct RequestState {
    /// The shard of the thread that polled the request last.
    pub(super) shard: Arc<Shard>,
    /// Whose thread may write to the shard and the counters.
    pub(super) local: Arc<LocalHandle>,
    /// The counters of the route in the shard, so that a poll need not look them up.
    pub(super) counters: Arc<RouteCounters>,
    pub(super) route: RouteId,
    method: MethodLabel,
    /// The name of the route until an answer has confirmed it.
    candidate: Option<Arc<str>>,
    pub(super) completion: Completion,
    pub(super) start: u64,
    /// The sum of the polls.
    pub(super) busy: u64,
    /// The start of the current poll, or of the last one. The highest bit marks a nested poll; see
    /// [`PollGuard`].
    pub(super) poll_start: u64,
    /// The end of the last poll.
    pub(super) last_poll_end: u64,
    /// The id of the `tracing` span; 0 for none.
    pub(super) span: u64,
    /// What the exporter reads of the request.
    pub(super) activity: Arc<RequestActivity>,
}

// === impl RequestRecord ===

impl RequestRecord {
    /// Creates a record that belongs to no route yet.
    #[cold]
    pub(super) fn new(local: Arc<LocalHandle>, activity: Arc<RequestActivity>) -> Box<Self> {
        let route = Routes::UNATTRIBUTED;
        let shard = Arc::clone(local.shard());
        let waker = StampedWaker::new(shard.context.clock.clone());
        let monitor = local.monitor_address();
        let state = RequestState {
            counters: Arc::clone(local.counters(route)),
            shard,
            local,
            route,
            method: MethodLabel::TASK,
            candidate: None,
            completion: Completion::new(),
            start: 0,
            busy: 0,
            poll_start: 0,
            last_poll_end: 0,
            span: 0,
            activity,
        };
        Box::new(Self { state, waker, monitor })
    }

    /// Prepares the record for a later request. May run code of the task's waker.
    #[inline(always)]
    pub(super) fn reset(&mut self) {
        self.waker.reset();
    }

    #[inline]
    pub(super) fn is_of(&self, monitor: &Arc<MonitorState>) -> bool {
        self.monitor == Arc::as_ptr(monitor).addr()
    }

    #[inline]
    pub(super) fn state(&self) -> &RequestState {
        &self.state
    }

    #[inline]
    pub(super) fn state_mut(&mut self) -> &mut RequestState {
        &mut self.state
    }

    /// Returns the parts that a poll needs.
    #[inline(always)]
    pub(super) fn parts(&mut self) -> (&mut RequestState, &mut StampedWaker) {
        (&mut self.state, &mut self.waker)
    }

    /// Records a frame of the body. Returns whether it may be the last one.
    #[inline]
    pub(crate) fn on_frame<D: Buf>(&mut self, frame: &Frame<D>) -> bool {
        self.state.completion.on_frame(frame)
    }

    /// Records that the response, or the task, is complete.
    #[inline]
    pub(crate) fn on_end(&mut self) {
        self.state.completion.on_end();
    }

    /// Records an error instead of the response or of the rest of it.
    #[inline]
    pub(crate) fn on_error(&mut self) {
        self.state.on_error();
    }
}

// === impl RequestState ===

impl RequestState {
    /// Starts a request of `route` on the current thread.
    #[inline]
    pub(super) fn start_request(&mut self, method: MethodLabel, route: RequestRoute, span: u64) {
        self.completion.start_request();
        self.shard.request_started();
        self.start(method, route, span);
    }

    /// Starts an instrumented task on the current thread.
    pub(super) fn start_task(&mut self, route: RequestRoute, span: u64) {
        self.completion.start_task();
        self.start(MethodLabel::TASK, route, span);
    }

    #[inline]
    fn start(&mut self, method: MethodLabel, route: RequestRoute, span: u64) {
        let RequestRoute { id: route, candidate } = route;
        self.candidate = candidate;
        if self.route != route {
            self.route = route;
            self.counters = Arc::clone(self.local.counters(route));
            self.activity.set_route(route);
        }
        self.counters.start_request();
        let now = self.shard.context.clock.now();
        self.method = method;
        self.start = now;
        self.busy = 0;
        self.last_poll_end = now;
        self.span = span;
    }

    /// Ends the request at a moment.
    #[inline(always)]
    pub(super) fn end(&self, at: u64) {
        let (bounds, outcome) = (&self.shard.context.bounds, self.completion.outcome());
        let duration = at.saturating_sub(self.start);
        self.activity.end();
        self.counters.end_request(bounds, outcome, duration, self.busy);
        if self.method != MethodLabel::TASK {
            self.shard.request_ended();
        }
    }

    /// Records the head of the response. Returns whether the response has no body.
    #[inline]
    pub(super) fn on_response<B: Body>(&mut self, response: &Response<B>) -> bool {
        if self.candidate.is_some() && is_of_a_route(response.status(), response.headers()) {
            self.confirm_route();
        }
        self.completion.on_response(self.method, response)
    }

    /// Records that the service or a body has returned an error.
    #[cold]
    pub(super) fn on_error(&mut self) {
        self.confirm_route();
        self.completion.on_error();
    }

    /// Records that a poll unwinds.
    #[cold]
    pub(super) fn on_panic(&mut self) {
        self.confirm_route();
        self.completion.on_panic();
    }

    /// Records that the code of the route has run.
    #[cold]
    fn confirm_route(&mut self) {
        if let (Some(name), Some(monitor)) = (self.candidate.take(), self.local.monitor()) {
            monitor.routes.confirm(self.method, &name);
        }
    }

    #[inline(always)]
    pub(super) fn is_on_current_thread(&self) -> bool {
        self.local.is_of_current_thread()
    }

    /// Binds the request to the current thread.
    pub(super) fn rebind(&mut self, local: Arc<LocalHandle>) {
        self.shard = Arc::clone(local.shard());
        self.counters = Arc::clone(local.counters(self.route));
        self.local = local;
    }
}
