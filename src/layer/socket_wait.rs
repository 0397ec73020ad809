use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use crate::request::SocketWait;
use crate::threads::MonitorGuard;

/// Lets requests of HTTP/2 know how long they have waited in the socket.
///
/// Returned by [`StallMonitor::socket_wait_layer`](crate::StallMonitor::socket_wait_layer), which
/// has an example.
#[derive(Clone, Debug)]
pub struct SocketWaitLayer {
    guard: Arc<MonitorGuard>,
}

impl SocketWaitLayer {
    pub(crate) fn with_guard(guard: Arc<MonitorGuard>) -> Self {
        Self { guard }
    }
}

impl<S> Layer<S> for SocketWaitLayer {
    type Service = SocketWaitService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SocketWaitService { inner, guard: Arc::clone(&self.guard), wait: None }
    }
}

/// A service whose requests know how long they have waited in the socket.
///
/// Created by [`SocketWaitLayer`]. A clone belongs to the request for which it was made.
#[derive(Debug)]
pub struct SocketWaitService<S> {
    inner: S,
    guard: Arc<MonitorGuard>,
    /// That of the request for which this clone was made.
    wait: Option<SocketWait>,
}

impl<S: Clone> Clone for SocketWaitService<S> {
    /// Clones the service for the request that the current task, which polls a connection, has
    /// read. In another task, the clone takes the place of this one.
    fn clone(&self) -> Self {
        let read = SocketWait::of_current_task(self.guard.monitor());
        let wait = read.or_else(|| self.wait.clone());
        Self { inner: self.inner.clone(), guard: Arc::clone(&self.guard), wait }
    }
}

impl<S, B> Service<Request<B>> for SocketWaitService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(wait) = self.wait.take() {
            request.extensions_mut().insert(wait);
        }
        self.inner.call(request)
    }
}
