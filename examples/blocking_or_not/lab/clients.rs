//! Those who ask: the clients whose requests an experiment is about, and the bystanders, who want something else.
//!
//! They run on a runtime of their own, so that what holds the service up does not hold them up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time;

use super::Failure;

/// A connection that is kept alive.
pub(crate) struct Connection {
    requests: SendRequest<Empty<Bytes>>,
}

/// What became of one client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    After(Duration),
    /// The connection was closed without one, or it says that something failed.
    Failed,
    /// The client has lost its patience.
    Never,
}

/// Healthy requests while an experiment runs.
pub(crate) struct Bystanders {
    end: watch::Sender<bool>,
    fresh: JoinHandle<Vec<Duration>>,
    kept_alive: Vec<JoinHandle<Vec<Duration>>>,
}

/// How the bystanders fared.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Victims {
    pub(crate) asked: usize,
    pub(crate) delayed: usize,
    pub(crate) worst: Duration,
}

/// What both kinds of bystanders had.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Requests, each on a connection of its own.
    pub(crate) fresh: Victims,
    /// Connections that were there before.
    pub(crate) kept_alive: Victims,
}

/// A bystander who waits longer than this is delayed.
const DELAYED: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(20);
/// Bystanders come this long after the clients, and those come when nobody else is served.
const LEAD: Duration = Duration::from_millis(40);
const KEPT_ALIVE: usize = 4;

pub(crate) async fn ask_once(service: SocketAddr, path: &str) -> Result<String, Failure> {
    Connection::open(service).await?.ask(path).await
}

// === impl Connection ===

impl Connection {
    pub(crate) async fn open(service: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(service).await?;
        let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { requests })
    }

    pub(crate) async fn ask(&mut self, path: &str) -> Result<String, Failure> {
        self.requests.ready().await?;
        let request = Request::get(path).header("host", "localhost").body(Empty::new())?;
        let answer = self.requests.send_request(request).await?;
        if !answer.status().is_success() {
            return Err(answer.status().to_string().into());
        }
        Ok(String::from_utf8(answer.into_body().collect().await?.to_bytes().into())?)
    }
}

// === impl Answer ===

impl Answer {
    /// The answer to a request of a client that came at that time.
    pub(crate) async fn to(
        request: impl Future<Output = Result<String, Failure>>,
        asked: Instant,
        patience: Duration,
    ) -> Self {
        match time::timeout(patience, request).await {
            Ok(Ok(_)) => Self::After(asked.elapsed()),
            Ok(Err(_)) => Self::Failed,
            Err(_) => Self::Never,
        }
    }
}

// === impl Bystanders ===

impl Bystanders {
    /// Begins in a moment, for the clients to be first. The kept-alive connections have had an answer already.
    pub(crate) async fn start(service: SocketAddr) -> Result<Self, Failure> {
        let (end, _) = watch::channel(false);
        let mut kept_alive = Vec::new();
        for _ in 0..KEPT_ALIVE {
            let mut connection = Connection::open(service).await?;
            connection.ask("/hello").await?;
            kept_alive.push(tokio::spawn(ask_again_and_again(connection, end.subscribe())));
        }
        let fresh = tokio::spawn(ask_on_fresh_connections(service, end.subscribe()));
        Ok(Self { end, fresh, kept_alive })
    }

    /// Waits for the answers that are still to come; what is not answered by then counts as it is.
    pub(crate) async fn end(self) -> Result<Seen, Failure> {
        self.end.send_replace(true);
        let fresh = Victims::of(&self.fresh.await?);
        let mut worst = Vec::new();
        for connection in self.kept_alive {
            worst.extend(connection.await?.into_iter().max());
        }
        Ok(Seen { fresh, kept_alive: Victims::of(&worst) })
    }
}

/// The delays of a bystander who asks, waits, and asks again after a pause.
async fn ask_again_and_again(mut connection: Connection, mut end: watch::Receiver<bool>) -> Vec<Duration> {
    let mut delays = Vec::new();
    time::sleep(LEAD).await;
    while !*end.borrow() {
        delays.push(delay(connection.ask("/hello"), &mut end).await);
        time::sleep(PAUSE).await;
    }
    delays
}

/// The delays of bystanders who come at a steady pace, whether those before have their answers or not.
async fn ask_on_fresh_connections(service: SocketAddr, end: watch::Receiver<bool>) -> Vec<Duration> {
    let mut bystanders = JoinSet::new();
    let mut pace = time::interval_at(time::Instant::now() + LEAD, PAUSE);
    while !*end.borrow() {
        pace.tick().await;
        let mut end = end.clone();
        bystanders.spawn(async move { delay(ask_once(service, "/hello"), &mut end).await });
    }
    bystanders.join_all().await
}

/// How long an answer takes; what is not answered half a second past the end never will be.
async fn delay<T>(answer: impl Future<Output = T>, end: &mut watch::Receiver<bool>) -> Duration {
    let asked = Instant::now();
    let given_up = async {
        let _ = end.wait_for(|is_over| *is_over).await;
        time::sleep(Duration::from_millis(500)).await;
    };
    tokio::select! {
        _ = answer => {}
        () = given_up => {}
    }
    asked.elapsed()
}

// === impl Victims ===

impl Victims {
    fn of(delays: &[Duration]) -> Self {
        Self {
            asked: delays.len(),
            delayed: delays.iter().filter(|&&delay| delay > DELAYED).count(),
            worst: delays.iter().max().copied().unwrap_or_default(),
        }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            asked: self.asked + other.asked,
            delayed: self.delayed + other.delayed,
            worst: self.worst.max(other.worst),
        }
    }
}
