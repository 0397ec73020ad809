//! Clients on kept-alive sockets, on a runtime of their own: what holds the service up does not hold them up.

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

type Http = Client<HttpConnector, Full<Bytes>>;

/// Counts what the clients have seen.
#[derive(Clone, Default)]
pub(crate) struct Traffic {
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    failed: AtomicU64,
}

/// One user who asks the same again and again, `{}` being a number that grows.
struct User {
    method: &'static str,
    path: &'static str,
    pause: Duration,
}

/// Who is served well, as long as nobody else is there.
const HEALTHY: [User; 6] = [
    User::every(100, "GET", "/health"),
    User::every(80, "GET", "/users/{}"),
    User::every(90, "GET", "/users/{}"),
    User::every(110, "GET", "/orders/{}"),
    User::every(130, "GET", "/orders/{}"),
    User::every(500, "POST", "/thumbnails"),
];

/// Whose requests hold the workers.
const SICK: [User; 5] = [
    User::every(330, "GET", "/legacy/report"),
    User::every(370, "GET", "/files/{}.txt"),
    User::every(290, "GET", "/cache/{}"),
    User::every(900, "GET", "/export"),
    User::every(700, "GET", "/events"),
];

/// Sends one request, and does not wait for the answer.
pub(crate) fn ask_once(service: SocketAddr, path: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(service)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    // Open to the end, as with a client that is patient.
    std::mem::forget(stream);
    Ok(())
}

// === impl Traffic ===

impl Traffic {
    pub(crate) fn start(clients: &Runtime, service: SocketAddr, healthy: bool) -> Self {
        let traffic = Self::default();
        let sick: &[User] = if healthy { &[] } else { &SICK };
        for user in HEALTHY.iter().chain(sick) {
            clients.spawn(user.ask_forever(service, traffic.clone()));
        }
        traffic
    }

    fn count(&self, outcome: &Result<(), Box<dyn Error + Send + Sync>>) {
        let count = if outcome.is_ok() { &self.counts.answered } else { &self.counts.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answered = self.counts.answered.load(Ordering::Relaxed);
        let failed = self.counts.failed.load(Ordering::Relaxed);
        write!(f, "{answered} answered, {failed} failed")
    }
}

// === impl User ===

impl User {
    const fn every(millis: u64, method: &'static str, path: &'static str) -> Self {
        Self { method, path, pause: Duration::from_millis(millis) }
    }

    async fn ask_forever(&self, service: SocketAddr, traffic: Traffic) {
        let http = Client::builder(TokioExecutor::new()).build_http();
        let mut pace = time::interval(self.pause);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 1_u64.. {
            pace.tick().await;
            traffic.count(&self.ask(&http, service, number).await);
        }
    }

    async fn ask(&self, http: &Http, service: SocketAddr, number: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
        let path = self.path.replace("{}", &number.to_string());
        let body = if self.method == "POST" { work::sample() } else { Vec::new() };
        let request = Request::builder().method(self.method).uri(format!("http://{service}{path}"));
        let mut answer = http.request(request.body(body.into())?).await?;
        while let Some(frame) = answer.frame().await {
            frame?;
        }
        if answer.status().is_success() { Ok(()) } else { Err(answer.status().to_string().into()) }
    }
}
