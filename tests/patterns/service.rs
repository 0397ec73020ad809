//! The handlers behind a real socket, and their client.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::runtime::Runtime;
use tower_http::catch_panic::CatchPanicLayer;
use tower_stall::{Stall, StallMonitor};

use super::{blocking, non_blocking, support};

/// Held by a test while its service runs, because some handlers keep every core busy.
static SERIAL: Mutex<()> = Mutex::new(());

pub(crate) struct Service {
    monitor: StallMonitor,
    addr: SocketAddr,
    _runtime: Runtime,
    _lock: MutexGuard<'static, ()>,
}

impl Service {
    pub(crate) fn start(signals: bool) -> Self {
        let lock = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = support::runtime(2);
        let builder = support::builder().runtime(runtime.handle().clone());
        let monitor = builder.stack_signals(signals).spawn().unwrap();
        let app = blocking::router()
            .merge(non_blocking::router())
            .layer(monitor.layer())
            .layer(CatchPanicLayer::new());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { monitor, addr, _runtime: runtime, _lock: lock }
    }

    /// Sends a request and reads the whole response, whatever its status.
    pub(crate) fn get(&self, path: &str) {
        support::http_request(self.addr, "GET", path);
    }

    /// Returns the stalls of a route that have ended, oldest first.
    pub(crate) fn stalls(&self, route: &str) -> Vec<Stall> {
        self.all_stalls().into_iter().filter(|stall| stall.route() == route).collect()
    }

    /// Returns all stalls that have ended, oldest first.
    pub(crate) fn all_stalls(&self) -> Vec<Stall> {
        support::ended(&self.monitor)
    }

    pub(crate) fn collapsed_stacks(&self) -> String {
        self.monitor.collapsed_stacks()
    }
}
