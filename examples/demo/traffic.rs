//! Clients with keep-alive connections, on their own runtime, so that stalls of the service do not
//! stall them.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::runtime::Runtime;
use tokio::time::{self, MissedTickBehavior};

use crate::work;

type HttpClient = Client<HttpConnector, Full<Bytes>>;
type BoxError = Box<dyn Error + Send + Sync>;

/// Counts the responses that the clients receive.
#[derive(Clone, Default)]
pub(crate) struct Traffic {
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

/// A request that a client repeats after a pause. `{}` in the path is a growing number.
struct Repeated {
    method: &'static str,
    path: &'static str,
    pause: Duration,
}

const NON_BLOCKING: [Repeated; 6] = [
    Repeated::every(100, "GET", "/health"),
    Repeated::every(80, "GET", "/users/{}"),
    Repeated::every(90, "GET", "/users/{}"),
    Repeated::every(110, "GET", "/orders/{}"),
    Repeated::every(130, "GET", "/orders/{}"),
    Repeated::every(500, "POST", "/thumbnails"),
];

const BLOCKING: [Repeated; 5] = [
    Repeated::every(330, "GET", "/legacy/report"),
    Repeated::every(370, "GET", "/files/{}.txt"),
    Repeated::every(290, "GET", "/cache/{}"),
    Repeated::every(900, "GET", "/export"),
    Repeated::every(700, "GET", "/events"),
];

/// Sends one request and does not wait for the response.
pub(crate) fn send_without_waiting(service: SocketAddr, path: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(service)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    // Never closed, like the connection of a client without a timeout.
    std::mem::forget(stream);
    Ok(())
}

// === impl Traffic ===

impl Traffic {
    /// Starts one client per repeated request, with or without those to the blocking routes.
    pub(crate) fn start(clients: &Runtime, service: SocketAddr, blocking: bool) -> Self {
        let traffic = Self::default();
        let blocking: &[Repeated] = if blocking { &BLOCKING } else { &[] };
        for request in NON_BLOCKING.iter().chain(blocking) {
            clients.spawn(request.send_forever(service, traffic.clone()));
        }
        traffic
    }

    fn count(&self, outcome: &Result<(), BoxError>) {
        let count = if outcome.is_ok() { &self.counts.succeeded } else { &self.counts.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let succeeded = self.counts.succeeded.load(Ordering::Relaxed);
        let failed = self.counts.failed.load(Ordering::Relaxed);
        write!(f, "{succeeded} requests succeeded, {failed} failed")
    }
}

// === impl Repeated ===

impl Repeated {
    const fn every(millis: u64, method: &'static str, path: &'static str) -> Self {
        Self { method, path, pause: Duration::from_millis(millis) }
    }

    async fn send_forever(&self, service: SocketAddr, traffic: Traffic) {
        let http = Client::builder(TokioExecutor::new()).build_http();
        let mut interval = time::interval(self.pause);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 1_u64.. {
            interval.tick().await;
            traffic.count(&self.send(&http, service, number).await);
        }
    }

    async fn send(
        &self,
        http: &HttpClient,
        service: SocketAddr,
        number: u64,
    ) -> Result<(), BoxError> {
        let path = self.path.replace("{}", &number.to_string());
        let body = if self.method == "POST" { work::sample() } else { Vec::new() };
        let uri = format!("http://{service}{path}");
        let request = Request::builder().method(self.method).uri(uri).body(body.into())?;
        let mut response = http.request(request).await?;
        while let Some(frame) = response.frame().await {
            frame?;
        }
        let status = response.status();
        if status.is_success() { Ok(()) } else { Err(status.to_string().into()) }
    }
}
