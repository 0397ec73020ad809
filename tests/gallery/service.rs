//! The gallery behind a real socket, and its client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::runtime::{Builder, Runtime};
use tower_http::catch_panic::CatchPanicLayer;
use tower_stall::{Stall, StallMonitor};

use super::{healthy, sick, support};

/// One at a time, as some of the sick handlers keep the cores from everybody.
static SERIAL: Mutex<()> = Mutex::new(());

pub(crate) struct Service {
    monitor: StallMonitor,
    address: SocketAddr,
    _runtime: Runtime,
    _alone: MutexGuard<'static, ()>,
}

impl Service {
    pub(crate) fn start(signals: bool) -> Self {
        let alone = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let builder = support::builder().runtime(runtime.handle().clone()).stack_signals(signals);
        let monitor = builder.spawn().unwrap();
        let app = sick::router().merge(healthy::router()).layer(monitor.layer()).layer(CatchPanicLayer::new());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { monitor, address, _runtime: runtime, _alone: alone }
    }

    /// Asks, and waits for the whole answer.
    pub(crate) fn get(&self, path: &str) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1"), "{path}: {answer}");
    }

    /// The finished stalls of a route, oldest first.
    pub(crate) fn stalls(&self, route: &str) -> Vec<Stall> {
        self.all_stalls().into_iter().filter(|stall| stall.route() == route).collect()
    }

    /// Milliseconds by stack.
    pub(crate) fn collapsed_stacks(&self) -> String {
        self.monitor.collapsed_stacks()
    }

    pub(crate) fn all_stalls(&self) -> Vec<Stall> {
        self.monitor.recent_stalls().into_iter().filter(|stall| !stall.is_in_progress()).collect()
    }
}
