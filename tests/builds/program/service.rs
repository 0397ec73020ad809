//! The service: one route for each kind of work that a request does.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::task::block_in_place;
use tower_stall::StallMonitor;

use crate::block::{Depth, Gate, compute, sleep};

pub(crate) struct Service {
    pub(crate) addr: SocketAddr,
    pub(crate) runtime: Handle,
    pub(crate) monitor: StallMonitor,
    pub(crate) gate: Gate,
    pub(crate) depth: Depth,
    /// Receives a message at the start and at the end of the guard in `/cancelled`.
    pub(crate) guarded: Mutex<Receiver<()>>,
}

/// Blocks when it is dropped.
struct Guard {
    depth: Depth,
    messages: Sender<()>,
}

impl Service {
    pub(crate) fn start(
        runtime: &Runtime,
        monitor: &StallMonitor,
        gate: Gate,
        depth: Depth,
    ) -> Arc<Self> {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        let (messages, guarded) = channel();
        let router = router(monitor, &gate, depth, messages);
        runtime.spawn(async { axum::serve(listener, router).await });
        let (runtime, monitor) = (runtime.handle().clone(), monitor.clone());
        Arc::new(Self { addr, runtime, monitor, gate, depth, guarded: Mutex::new(guarded) })
    }
}

fn router(monitor: &StallMonitor, gate: &Gate, depth: Depth, messages: Sender<()>) -> Router {
    let gate = gate.clone();
    Router::new()
        .route("/ok", get(|| async { "ok" }))
        .route("/sleeping", get(move || async move { sleep(depth) }))
        .route("/computing", get(move || async move { compute(depth) }))
        .route("/in-place", get(move || async move { block_in_place(|| sleep(depth)) }))
        .route("/in-place-computing", get(move || async move { block_in_place(|| compute(depth)) }))
        .route(
            "/in-place-endless",
            get(move || {
                let gate = gate.clone();
                async move { block_in_place(|| gate.block(depth)) }
            }),
        )
        .route(
            "/cancelled",
            get(move || {
                let guard = Guard { depth, messages: messages.clone() };
                async move {
                    guard.messages.send(()).unwrap();
                    std::future::pending::<()>().await;
                    drop(guard);
                }
            }),
        )
        .route("/behind-middleware", get(|| async { "ok" }))
        .layer(monitor.layer())
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            outermost(depth, request, next)
        }))
}

async fn outermost(depth: Depth, request: Request, next: Next) -> Response {
    if request.uri().path() == "/behind-middleware" {
        sleep(depth);
    }
    next.run(request).await
}

impl Drop for Guard {
    fn drop(&mut self) {
        sleep(self.depth);
        // The receiver is gone if the process ends.
        let _ended = self.messages.send(());
    }
}
