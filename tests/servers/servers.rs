//! Tests over real sockets, with hyper and axum.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::sse::{Event, Sse};
use axum::routing::{any, get};
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use support::{DEADLINE, assert_outcomes, by_path, eventually, in_flight, scrape, stats};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tower::{Layer, Service, service_fn};
use tower_http::services::{ServeDir, ServeFile};
use tower_stall::StallMonitor;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type AnyBody = UnsyncBoxBody<Bytes, BoxError>;

// === Servers and clients ===

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Http1,
    Http2,
}

const PROTOCOLS: [(Protocol, &str); 2] = [(Protocol::Http1, "http1"), (Protocol::Http2, "http2")];

/// Serves connections with hyper, each on its own task.
async fn serve<S, B>(protocol: Protocol, service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (io, service) = (TokioIo::new(stream), TowerToHyperService::new(service.clone()));
            tokio::spawn(async move {
                // Some tests break the connection.
                let _ = match protocol {
                    Protocol::Http1 => {
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(io, service)
                            .await
                    }
                    Protocol::Http2 => {
                        let builder =
                            hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        builder.serve_connection(io, service).await
                    }
                };
            });
        }
    });
    addr
}

/// A client's connection. Dropping it closes the socket.
struct Client {
    sender: Sender,
    connection: JoinHandle<()>,
}

#[derive(Clone)]
enum Sender {
    Http1(Arc<tokio::sync::Mutex<hyper::client::conn::http1::SendRequest<Empty<Bytes>>>>),
    Http2(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    async fn connect(protocol: Protocol, addr: SocketAddr) -> Self {
        let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
        match protocol {
            Protocol::Http1 => {
                let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                let connection = tokio::spawn(async { drop(connection.await) });
                Self { sender: Sender::Http1(Arc::new(sender.into())), connection }
            }
            Protocol::Http2 => {
                let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
                let (sender, connection) = handshake.await.unwrap();
                let connection = tokio::spawn(async { drop(connection.await) });
                Self { sender: Sender::Http2(sender), connection }
            }
        }
    }

    async fn get(&self, path: &str) -> Response<Incoming> {
        self.sender.clone().send(request(Method::GET, path)).await.unwrap()
    }

    /// Sends a request, and returns the status and the size of the response.
    async fn read(&self, request: Request<Empty<Bytes>>) -> (StatusCode, usize) {
        let response = self.sender.clone().send(request).await.unwrap();
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes().len())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Sender {
    async fn send(self, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(mut sender) => sender.send_request(request).await,
        }
    }
}

fn request(method: Method, path: &str) -> Request<Empty<Bytes>> {
    let uri = format!("http://localhost{path}");
    Request::builder()
        .method(method)
        .uri(uri)
        .header("host", "localhost")
        .body(Empty::new())
        .unwrap()
}

/// Returns a body of `count` chunks, one every few milliseconds.
fn chunks(count: usize) -> AnyBody {
    let stream = stream::unfold(0, move |sent| async move {
        sleep(Duration::from_millis(2)).await;
        (sent < count)
            .then(|| (Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[b'x'; 1000]))), sent + 1))
    });
    StreamBody::new(stream).boxed_unsync()
}

async fn next_frame(response: &mut Response<Incoming>) -> usize {
    let frame = timeout(DEADLINE, response.body_mut().frame()).await.unwrap();
    frame.unwrap().unwrap().into_data().unwrap().len()
}

// === hyper ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_a_connection_are_counted_each() {
    for (protocol, name) in PROTOCOLS {
        let monitor = by_path().spawn().unwrap();
        let respond = |_: Request<Incoming>| async { Ok(Response::new(chunks(3))) };
        let addr = serve(protocol, monitor.layer().layer(service_fn(respond))).await;
        let client = Client::connect(protocol, addr).await;
        let path = format!("/connection/{name}");
        for _ in 0..5 {
            assert_eq!(client.read(request(Method::GET, &path)).await, (StatusCode::OK, 3000));
        }
        assert_outcomes(&path, &[("2xx", 5)]);
        let stats = stats(&monitor, "GET", &path).unwrap();
        assert_eq!((stats.requests(), stats.in_flight()), (5, 0));
        assert!(stats.polls() >= 5 * (2 + 3), "{stats:?}");
    }
}

/// The streams are in flight together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_connection_are_counted_each() {
    let monitor = by_path().spawn().unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let gate_of_handler = Arc::clone(&gate);
    let respond = move |_: Request<Incoming>| {
        let gate = Arc::clone(&gate_of_handler);
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(Response::new(chunks(3)))
        }
    };
    let addr = serve(Protocol::Http2, monitor.layer().layer(service_fn(respond))).await;
    let client = Arc::new(Client::connect(Protocol::Http2, addr).await);
    let streams: Vec<_> = (0..6)
        .map(|_| {
            let client = Arc::clone(&client);
            tokio::spawn(async move { client.read(request(Method::GET, "/streams")).await })
        })
        .collect();
    eventually("all streams are in flight", || in_flight(&monitor, "/streams") == 6);
    eventually("they are in the text", || scrape().in_flight("/streams") == 6);
    gate.add_permits(6);
    for stream in streams {
        assert_eq!(stream.await.unwrap(), (StatusCode::OK, 3000));
    }
    assert_outcomes("/streams", &[("2xx", 6)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_disconnects_during_the_body_cancels_it() {
    for (protocol, name) in PROTOCOLS {
        let monitor = by_path().spawn().unwrap();
        let respond = |_: Request<Incoming>| async { Ok(Response::new(chunks(usize::MAX))) };
        let addr = serve(protocol, monitor.layer().layer(service_fn(respond))).await;
        let client = Client::connect(protocol, addr).await;
        let path = format!("/disconnect/body/{name}");
        let mut response = client.get(&path).await;
        assert!(next_frame(&mut response).await > 0);
        assert_eq!(in_flight(&monitor, &path), 1);
        drop((response, client));
        eventually("nothing is in flight", || in_flight(&monitor, &path) == 0);
        assert_outcomes(&path, &[("cancelled", 1)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_disconnects_before_the_response_cancels_it() {
    for (protocol, name) in PROTOCOLS {
        let monitor = by_path().spawn().unwrap();
        let never =
            |_: Request<Incoming>| std::future::pending::<Result<Response<AnyBody>, Infallible>>();
        let addr = serve(protocol, monitor.layer().layer(service_fn(never))).await;
        let client = Client::connect(protocol, addr).await;
        let path = format!("/disconnect/handler/{name}");
        let request = tokio::spawn(client.sender.clone().send(request(Method::GET, &path)));
        eventually("it is in flight", || in_flight(&monitor, &path) == 1);
        request.abort();
        drop(client);
        eventually("nothing is in flight", || in_flight(&monitor, &path) == 0);
        assert_outcomes(&path, &[("cancelled", 1)]);
    }
}

// === Files ===

const FILE_SIZE: usize = 300_000;

/// A test's own directory with a big and an empty file.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("tower-stall-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("big.txt"), vec![b'x'; FILE_SIZE]).unwrap();
        std::fs::write(dir.join("empty.txt"), "").unwrap();
        Self(dir)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Files are sent whole and in part; servers drop their bodies at the last byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_complete_responses() {
    let files = Files::new("files");
    for (protocol, name) in PROTOCOLS {
        let route = format!("files/{name}");
        let label = route.clone();
        let monitor =
            support::builder().route_label(move |_| Some(label.clone().into())).spawn().unwrap();
        let addr = serve(protocol, monitor.layer().layer(ServeDir::new(&files.0))).await;
        let client = Client::connect(protocol, addr).await;
        assert_eq!(
            client.read(request(Method::GET, "/big.txt")).await,
            (StatusCode::OK, FILE_SIZE)
        );
        assert_eq!(client.read(request(Method::HEAD, "/big.txt")).await, (StatusCode::OK, 0));
        let mut part = request(Method::GET, "/big.txt");
        part.headers_mut().insert("range", "bytes=10-19".parse().unwrap());
        assert_eq!(client.read(part).await, (StatusCode::PARTIAL_CONTENT, 10));
        let mut unmodified = request(Method::GET, "/big.txt");
        unmodified
            .headers_mut()
            .insert("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT".parse().unwrap());
        assert_eq!(client.read(unmodified).await, (StatusCode::NOT_MODIFIED, 0));
        assert_eq!(
            client.read(request(Method::GET, "/none.txt")).await,
            (StatusCode::NOT_FOUND, 0)
        );
        assert_outcomes(&route, &[("2xx", 3), ("3xx", 1), ("4xx", 1)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_file_is_a_complete_response() {
    let files = Files::new("file");
    let monitor = support::builder().spawn().unwrap();
    let file = ServeFile::new(files.0.join("big.txt"));
    let router = Router::new().route_service("/file/{name}", file).layer(monitor.layer());
    let client = Client::connect(Protocol::Http1, serve_router(router).await).await;
    assert_eq!(client.read(request(Method::GET, "/file/1")).await, (StatusCode::OK, FILE_SIZE));
    assert_outcomes("/file/{name}", &[("2xx", 1)]);
}

/// Its body's `is_end_stream` is `false`, and hyper never polls it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_file_is_a_complete_response() {
    let files = Files::new("empty");
    let mut outcomes = Vec::new();
    for (protocol, name) in PROTOCOLS {
        let route = format!("empty/{name}");
        let label = route.clone();
        let monitor =
            support::builder().route_label(move |_| Some(label.clone().into())).spawn().unwrap();
        let addr = serve(protocol, monitor.layer().layer(ServeDir::new(&files.0))).await;
        let client = Client::connect(protocol, addr).await;
        assert_eq!(client.read(request(Method::GET, "/empty.txt")).await, (StatusCode::OK, 0));
        eventually("it is counted", || !scrape().outcomes(&route).is_empty());
        outcomes.push((name, scrape().outcomes(&route)));
    }
    assert_eq!(outcomes, [("http1", vec![("2xx", 1)]), ("http2", vec![("2xx", 1)])]);
}

// === axum::serve ===

async fn serve_router(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    addr
}

/// The scraped number of polls grows, and the stream ends when the client disconnects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_sent_events_are_measured_while_in_flight() {
    let monitor = support::builder().spawn().unwrap();
    let events = || async {
        Sse::new(stream::unfold((), |()| async {
            sleep(Duration::from_millis(2)).await;
            Some((Ok::<_, Infallible>(Event::default().data("tick")), ()))
        }))
    };
    let router = Router::new().route("/events/{id}", get(events)).layer(monitor.layer());
    let client = Client::connect(Protocol::Http1, serve_router(router).await).await;
    let mut response = client.get("/events/1").await;
    assert!(next_frame(&mut response).await > 0);

    let labels = [("route", "/events/{id}"), ("phase", "body")];
    let polls = || scrape().sum("tower_stall_poll_duration_seconds_count", &labels);
    eventually("it is in flight", || scrape().in_flight("/events/{id}") == 1);
    eventually("it has polls", || polls() > 0.0);
    let before = polls();
    let reading = tokio::spawn(async move {
        loop {
            next_frame(&mut response).await;
        }
    });
    eventually("its polls grow", || polls() > before + 10.0);
    assert_eq!(scrape().in_flight("/events/{id}"), 1);
    assert_eq!(scrape().outcomes("/events/{id}"), []);

    reading.abort();
    drop(client);
    assert_outcomes("/events/{id}", &[("cancelled", 1)]);
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(Message::Text(text))) = socket.recv().await {
        socket.send(Message::Text(text)).await.unwrap();
    }
}

fn websocket_router(monitor: &StallMonitor) -> Router {
    let instrument = monitor.clone();
    let upgrade = move |upgrade: WebSocketUpgrade| async move {
        upgrade.on_upgrade(move |socket| instrument.instrument("ws /echo", echo(socket)))
    };
    Router::new().route("/echo", any(upgrade)).layer(monitor.layer())
}

/// As `examples/websocket.rs`: the name is that of the route.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_a_websocket_that_stalls_is_reported_under_its_route() {
    use axum::extract::{MatchedPath, State};
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite;

    const LONG: Duration = Duration::from_millis(150);
    async fn work(mut socket: WebSocket) {
        while let Some(Ok(Message::Text(text))) = socket.recv().await {
            match text.as_str() {
                "block" => std::thread::sleep(LONG),
                _ => {
                    let start = std::time::Instant::now();
                    while start.elapsed() < LONG {}
                }
            }
            socket.send(Message::Text(text)).await.unwrap();
        }
    }
    async fn live(
        upgrade: WebSocketUpgrade,
        path: MatchedPath,
        State(monitor): State<StallMonitor>,
    ) -> axum::response::Response {
        upgrade.on_upgrade(move |socket| monitor.instrument(path.as_str(), work(socket)))
    }
    let monitor = support::builder().spawn().unwrap();
    let router = Router::new()
        .route("/live/{room}", any(live))
        .layer(monitor.layer())
        .with_state(monitor.clone());
    let addr = serve_router(router).await;
    let (mut socket, _) =
        tokio_tungstenite::connect_async(format!("ws://{addr}/live/7")).await.unwrap();

    let stalls = || {
        let of_route = |stall: &tower_stall::Stall| {
            (stall.method(), stall.route()) == ("TASK", "/live/{room}") && stall.duration() >= LONG
        };
        support::ended(&monitor).into_iter().filter(of_route).collect::<Vec<_>>()
    };
    for (number, message) in ["block", "compute"].into_iter().enumerate() {
        socket.send(tungstenite::Message::text(message)).await.unwrap();
        timeout(DEADLINE, socket.next()).await.unwrap().unwrap().unwrap();
        eventually("the message is reported", || stalls().len() > number);
    }
    if cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        let blocked = &stalls()[0];
        let location = blocked.location().expect("a blocked thread has a line");
        assert!(location.to_string().contains("servers.rs"), "{blocked:#}");
    }
}

/// Its request counts once, as `1xx`, and its instrumented task is in flight until it is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_measured_while_open() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite;
    let monitor = support::builder().spawn().unwrap();
    let addr = serve_router(websocket_router(&monitor)).await;
    let (mut socket, _) =
        tokio_tungstenite::connect_async(format!("ws://{addr}/echo")).await.unwrap();
    assert_outcomes("/echo", &[("1xx", 1)]);

    let polls = || stats(&monitor, "TASK", "ws /echo").map_or(0, |stats| stats.polls());
    for round in 0..5 {
        let before = polls();
        socket.send(tungstenite::Message::text(format!("{round}"))).await.unwrap();
        let reply = timeout(DEADLINE, socket.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(reply.into_text().unwrap().as_str(), format!("{round}"));
        eventually("the poll that replied has ended", || polls() > before);
    }
    eventually("it is in flight", || scrape().in_flight("ws /echo") == 1);
    assert_eq!(scrape().outcomes("ws /echo"), []);

    socket.close(None).await.unwrap();
    assert_outcomes("ws /echo", &[("2xx", 1)]);
    assert_outcomes("/echo", &[("1xx", 1)]);
}
