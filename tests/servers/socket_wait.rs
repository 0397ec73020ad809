//! Tests of the socket wait with HTTP/2 and TLS; `tests/socket_wait.rs` has those of HTTP/1.1.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(target_os = "linux")]

#[path = "../support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::io::{Read, Write};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use axum::Router;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rcgen::CertifiedKey;
use support::blocked_server::{BLOCKED, BlockedServer};
use support::{current_thread_runtime, runtime};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
};
use tower::make::Shared;
use tower::{Layer, Service};
use tower_stall::StallMonitor;

/// Returns a runtime for the client, and runtimes for servers.
fn runtimes() -> (Runtime, [Runtime; 2]) {
    (runtime(1), [current_thread_runtime(), runtime(1)])
}

/// Connects by HTTP/2, without TLS.
async fn connect(server: &BlockedServer) -> SendRequest<Empty<Bytes>> {
    let io = TokioIo::new(TcpStream::connect(server.addr).await.unwrap());
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(async { drop(connection.await) });
    sender
}

/// Sends a request, and reads the response.
async fn get(mut sender: SendRequest<Empty<Bytes>>, route: &str) {
    let uri = format!("http://localhost{route}");
    let request = Request::get(uri).body(Empty::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert!(response.status().is_success());
    response.into_body().collect().await.unwrap();
}

/// Serves by axum, with the layer that HTTP/2 needs.
async fn serve(listener: TcpListener, monitor: StallMonitor, app: Router) {
    let app = monitor.socket_wait_layer().layer(app);
    axum::serve(monitor.listener(listener), Shared::new(app)).await.unwrap();
}

// === HTTP/2 ===

#[test]
fn a_stream_that_waited_is_not_taken_for_another_one_of_its_connection() {
    let (client, servers) = runtimes();
    for runtime in servers {
        let server = BlockedServer::start_with(runtime, serve);
        let sender = client.block_on(connect(&server));
        client.block_on(get(sender.clone(), "/warm-up"));
        let blocking = server.block();
        let sent = Instant::now();
        let victim = client.spawn(get(sender.clone(), "/victim"));
        server.end_block();
        client.block_on(victim).unwrap();
        blocking.join().unwrap();
        server.assert_waited("/victim", sent);
        let sent = Instant::now();
        client.block_on(get(sender, "/other"));
        server.assert_has_not_waited("/other", sent);
    }
}

#[test]
fn streams_that_are_read_together_have_waited_each() {
    let (client, servers) = runtimes();
    for runtime in servers {
        let server = BlockedServer::start_with(runtime, serve);
        let sender = client.block_on(connect(&server));
        client.block_on(get(sender.clone(), "/warm-up"));
        let blocking = server.block();
        let sent = Instant::now();
        let streams = ["/victim", "/other"].map(|route| client.spawn(get(sender.clone(), route)));
        server.end_block();
        for stream in streams {
            client.block_on(stream).unwrap();
        }
        blocking.join().unwrap();
        server.assert_waited("/victim", sent);
        server.assert_waited("/other", sent);
    }
}

#[test]
fn connections_whose_streams_are_called_in_turn_are_not_mixed_up() {
    let (client, servers) = runtimes();
    for runtime in servers {
        let server = BlockedServer::start_with(runtime, serve);
        let [one, other] = [(); 2].map(|()| client.block_on(connect(&server)));
        for sender in [&one, &other] {
            client.block_on(get(sender.clone(), "/warm-up"));
        }
        let blocking = server.block();
        let sent = Instant::now();
        let one = client.spawn(get(one, "/victim"));
        thread::sleep(BLOCKED);
        let sent_later = Instant::now();
        let other = client.spawn(get(other, "/other"));
        server.end_block();
        client.block_on(async { (one.await.unwrap(), other.await.unwrap()) });
        blocking.join().unwrap();
        server.assert_waited("/victim", sent);
        server.assert_waited("/other", sent_later);
    }
}

#[test]
fn without_the_layer_nothing_is_known_of_streams() {
    let (client, servers) = runtimes();
    for runtime in servers {
        let server = BlockedServer::start(runtime);
        let sender = client.block_on(connect(&server));
        client.block_on(get(sender, "/other"));
        let stats = server.stats_after("/other", 1);
        assert_eq!((stats.requests(), stats.socket_waits()), (1, 0));
    }
}

/// Serves by hyper, as tonic does: each request is served by a clone of the connection's service.
async fn serve_by_hyper<S, B>(listener: TcpListener, monitor: StallMonitor, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: http_body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let io = TokioIo::new(monitor.io(stream));
        let service = TowerToHyperService::new(service.clone());
        let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        tokio::spawn(async move { builder.serve_connection(io, service).await });
    }
}

#[test]
fn streams_of_a_server_without_axum_have_waited() {
    let (client, servers) = runtimes();
    for runtime in servers {
        let server = BlockedServer::start_with(runtime, |listener, monitor, app| {
            let service = monitor.socket_wait_layer().layer(app);
            serve_by_hyper(listener, monitor, service)
        });
        let sender = client.block_on(connect(&server));
        client.block_on(get(sender.clone(), "/warm-up"));
        let blocking = server.block();
        let sent = Instant::now();
        let victim = client.spawn(get(sender, "/victim"));
        server.end_block();
        client.block_on(victim).unwrap();
        blocking.join().unwrap();
        server.assert_waited("/victim", sent);
    }
}

// === TLS ===

/// Where the stream of the monitor is.
#[derive(Clone, Copy)]
enum Tls {
    /// Around the stream: the monitor sees what is encrypted.
    Outside,
    /// Inside the stream: the monitor sees what is decrypted.
    Inside,
}

/// Returns the configurations of a server for `localhost`, and of a client that trusts it.
fn tls() -> (TlsAcceptor, ClientConfig) {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    (Arc::new(server).into(), client)
}

/// Serves over TLS, by hyper with HTTP/1.1.
async fn serve_tls(
    listener: TcpListener,
    monitor: StallMonitor,
    app: Router,
    acceptor: TlsAcceptor,
    tls: Tls,
) {
    let service = TowerToHyperService::new(app);
    let builder = hyper::server::conn::http1::Builder::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (monitor, acceptor) = (monitor.clone(), acceptor.clone());
        let (builder, service) = (builder.clone(), service.clone());
        tokio::spawn(async move {
            match tls {
                Tls::Outside => {
                    let io = acceptor.accept(monitor.io(stream)).await.unwrap();
                    builder.serve_connection(TokioIo::new(io), service).await
                }
                Tls::Inside => {
                    let io = monitor.io(acceptor.accept(stream).await.unwrap());
                    builder.serve_connection(TokioIo::new(io), service).await
                }
            }
        });
    }
}

type TlsStream = StreamOwned<ClientConnection, std::net::TcpStream>;

fn send(stream: &mut TlsStream, route: &str) {
    write!(stream, "GET {route} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
}

/// Reads up to the end of a response whose body is the route.
fn receive(stream: &mut TlsStream, route: &str) {
    let mut read = Vec::new();
    while !read.ends_with(route.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        read.extend(byte);
    }
}

#[test]
fn a_request_over_tls_has_waited() {
    let (acceptor, config) = tls();
    let config = Arc::new(config);
    for tls in [Tls::Outside, Tls::Inside] {
        let acceptor = acceptor.clone();
        let runtime = current_thread_runtime();
        let server = BlockedServer::start_with(runtime, |listener, monitor, app| {
            serve_tls(listener, monitor, app, acceptor, tls)
        });
        let [mut blocking, mut victim] = [(); 2].map(|()| {
            let name = "localhost".try_into().unwrap();
            let connection = ClientConnection::new(Arc::clone(&config), name).unwrap();
            StreamOwned::new(connection, std::net::TcpStream::connect(server.addr).unwrap())
        });
        let sent = Instant::now();
        send(&mut victim, "/other");
        receive(&mut victim, "/other");
        server.assert_has_not_waited("/other", sent);
        send(&mut blocking, "/block");
        server.wait_until_blocked();
        let sent = Instant::now();
        send(&mut victim, "/victim");
        server.end_block();
        receive(&mut victim, "/victim");
        server.assert_waited("/victim", sent);
    }
}
