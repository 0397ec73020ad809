//! HTTP clients: those that an experiment is about, and bystanders that request another route.
//!
//! They run on a runtime of their own, so that stalls of the service do not stall them.

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

use super::BoxError;

/// A keep-alive connection.
pub(crate) struct Connection {
    requests: SendRequest<Empty<Bytes>>,
}

/// The outcome of one client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientOutcome {
    /// A successful response, and the time it took.
    After(Duration),
    /// An error response, or a closed connection.
    Failed,
    /// No response within the client's timeout.
    Never,
}

/// Clients that request `/hello` while an experiment runs.
pub(crate) struct Bystanders {
    stop: watch::Sender<bool>,
    fresh: JoinHandle<Vec<Duration>>,
    kept_alive: Vec<JoinHandle<Vec<Duration>>>,
}

/// How long bystanders were delayed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delays {
    /// The number of bystanders.
    pub total: usize,
    /// How many of them waited for longer than 50 ms.
    pub delayed: usize,
    /// The longest time to a response.
    pub worst: Duration,
}

/// The delays of both kinds of bystanders.
#[derive(Clone, Copy, Debug, Default)]
pub struct BystanderDelays {
    /// Delays of requests, each on a new connection.
    pub fresh: Delays,
    /// Delays of keep-alive connections, by their slowest request.
    pub kept_alive: Delays,
}

/// A bystander that waits for longer than this is delayed.
const DELAYED: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(20);
/// The head start of the clients before the first bystander.
const LEAD: Duration = Duration::from_millis(40);
const KEPT_ALIVE: usize = 4;

/// Sends a request on a new connection.
pub(crate) async fn get_once(service: SocketAddr, path: &str) -> Result<String, BoxError> {
    Connection::open(service).await?.get(path).await
}

// === impl Connection ===

impl Connection {
    pub(crate) async fn open(service: SocketAddr) -> Result<Self, BoxError> {
        let stream = TcpStream::connect(service).await?;
        let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { requests })
    }

    /// Opens a connection that has already served a request.
    pub(crate) async fn open_used(service: SocketAddr) -> Result<Self, BoxError> {
        let mut connection = Self::open(service).await?;
        connection.get("/hello").await?;
        Ok(connection)
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<String, BoxError> {
        self.requests.ready().await?;
        let request = Request::get(path).header("host", "localhost").body(Empty::new())?;
        let response = self.requests.send_request(request).await?;
        if !response.status().is_success() {
            return Err(response.status().to_string().into());
        }
        Ok(String::from_utf8(response.into_body().collect().await?.to_bytes().into())?)
    }
}

// === impl ClientOutcome ===

impl ClientOutcome {
    /// Waits for a response, which takes its time from `start`.
    pub(crate) async fn of(
        response: impl Future<Output = Result<String, BoxError>>,
        start: Instant,
        timeout: Duration,
    ) -> Self {
        match time::timeout(timeout, response).await {
            Ok(Ok(_)) => Self::After(start.elapsed()),
            Ok(Err(_)) => Self::Failed,
            Err(_) => Self::Never,
        }
    }
}

// === impl Bystanders ===

impl Bystanders {
    /// Starts the bystanders. They send their first request a little later than the clients.
    pub(crate) async fn start(service: SocketAddr) -> Result<Self, BoxError> {
        let (stop, _) = watch::channel(false);
        let mut kept_alive = Vec::new();
        for _ in 0..KEPT_ALIVE {
            let connection = Connection::open_used(service).await?;
            kept_alive.push(tokio::spawn(repeat(connection, stop.subscribe())));
        }
        let fresh = tokio::spawn(repeat_on_fresh_connections(service, stop.subscribe()));
        Ok(Self { stop, fresh, kept_alive })
    }

    /// Stops the bystanders and waits a little for outstanding responses.
    pub(crate) async fn stop(self) -> Result<BystanderDelays, BoxError> {
        self.stop.send_replace(true);
        let fresh = Delays::of(&self.fresh.await?);
        let mut worst = Vec::new();
        for connection in self.kept_alive {
            worst.extend(connection.await?.into_iter().max());
        }
        Ok(BystanderDelays { fresh, kept_alive: Delays::of(&worst) })
    }
}

/// Sends one request after another, with a pause after each response. Returns the response times.
async fn repeat(mut connection: Connection, mut stop: watch::Receiver<bool>) -> Vec<Duration> {
    let mut times = Vec::new();
    time::sleep(LEAD).await;
    while !*stop.borrow() {
        times.push(response_time(connection.get("/hello"), &mut stop).await);
        time::sleep(PAUSE).await;
    }
    times
}

/// Sends requests at a steady rate, whether or not earlier ones have a response. Returns the
/// response times.
async fn repeat_on_fresh_connections(
    service: SocketAddr,
    stop: watch::Receiver<bool>,
) -> Vec<Duration> {
    let mut bystanders = JoinSet::new();
    let mut interval = time::interval_at(time::Instant::now() + LEAD, PAUSE);
    while !*stop.borrow() {
        interval.tick().await;
        let mut stop = stop.clone();
        let response = get_once(service, "/hello");
        bystanders.spawn(async move { response_time(response, &mut stop).await });
    }
    bystanders.join_all().await
}

/// Returns how long a response takes. Gives up half a second after the bystanders are stopped.
async fn response_time<T>(
    response: impl Future<Output = T>,
    stop: &mut watch::Receiver<bool>,
) -> Duration {
    let start = Instant::now();
    let give_up = async {
        let _ = stop.wait_for(|stop| *stop).await;
        time::sleep(Duration::from_millis(500)).await;
    };
    tokio::select! {
        _ = response => {}
        () = give_up => {}
    }
    start.elapsed()
}

// === impl Delays ===

impl Delays {
    fn of(times: &[Duration]) -> Self {
        Self {
            total: times.len(),
            delayed: times.iter().filter(|&&time| time > DELAYED).count(),
            worst: times.iter().max().copied().unwrap_or_default(),
        }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            total: self.total + other.total,
            delayed: self.delayed + other.delayed,
            worst: self.worst.max(other.worst),
        }
    }
}
