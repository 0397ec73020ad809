//! Tests of the socket wait, over real sockets, against what the clients measure.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(all(feature = "axum", target_os = "linux"))]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use axum::serve::ListenerExt;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use support::blocked_server::{BLOCKED, BlockedServer};
use support::{
    DEADLINE, builder_for, current_thread_runtime, ended, eventually, http_get, runtime, stats,
};
use tokio::net::{TcpListener, UnixStream};
use tokio::runtime::Runtime;

// === The client ===

/// A connection on which a test writes what it wants, when it wants.
struct Client(TcpStream);

impl Client {
    fn new(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(stream)
    }

    fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    fn send(&mut self, route: &str) {
        self.write(&request(route));
    }

    /// Reads up to the end of a response whose body is the route.
    fn receive(&mut self, route: &str) {
        let mut read = Vec::new();
        while !read.ends_with(route.as_bytes()) {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            read.extend(byte);
        }
    }

    fn get(&mut self, route: &str) {
        self.send(route);
        self.receive(route);
    }
}

fn request(route: &str) -> String {
    format!("GET {route} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

fn runtimes() -> [Runtime; 2] {
    [current_thread_runtime(), runtime(1)]
}

// === HTTP/1.1 ===

#[test]
fn a_request_on_an_open_connection_has_waited() {
    for runtime in runtimes() {
        let server = BlockedServer::start(runtime);
        let mut client = Client::new(server.addr);
        let sent = Instant::now();
        client.get("/other");
        server.assert_has_not_waited("/other", sent);
        let blocking = server.block();
        let sent = Instant::now();
        client.send("/victim");
        server.end_block();
        client.receive("/victim");
        blocking.join().unwrap();
        server.assert_waited("/victim", sent);
    }
}

#[test]
fn a_connection_that_was_opened_during_the_stall_has_waited_since_its_request() {
    for runtime in runtimes() {
        let server = BlockedServer::start(runtime);
        let blocking = server.block();
        let mut client = Client::new(server.addr);
        thread::sleep(BLOCKED / 4);
        let sent = Instant::now();
        client.send("/victim");
        server.end_block();
        client.receive("/victim");
        blocking.join().unwrap();
        server.assert_waited("/victim", sent);
    }
}

#[test]
fn a_connection_is_not_taken_for_another_one_of_the_same_thread() {
    for runtime in runtimes() {
        let server = BlockedServer::start(runtime);
        let [mut one, mut other] = [(); 2].map(|()| Client::new(server.addr));
        let blocking = server.block();
        let sent = Instant::now();
        one.send("/victim");
        thread::sleep(BLOCKED);
        let sent_later = Instant::now();
        other.send("/other");
        server.end_block();
        one.receive("/victim");
        other.receive("/other");
        blocking.join().unwrap();
        server.assert_waited("/victim", sent);
        server.assert_waited("/other", sent_later);
    }
}

#[test]
fn requests_that_are_read_together_have_waited_each() {
    for runtime in runtimes() {
        let server = BlockedServer::start(runtime);
        let mut client = Client::new(server.addr);
        let blocking = server.block();
        let sent = Instant::now();
        client.write(&[request("/victim"), request("/other"), request("/victim")].concat());
        server.end_block();
        for route in ["/victim", "/other", "/victim"] {
            client.receive(route);
        }
        blocking.join().unwrap();
        server.assert_waited("/victim", sent);
        server.assert_waited("/other", sent);
    }
}

#[test]
fn a_request_that_is_pipelined_behind_a_stall_of_its_connection_has_waited() {
    for runtime in runtimes() {
        let server = BlockedServer::start(runtime);
        let mut client = Client::new(server.addr);
        client.send("/block");
        server.wait_until_blocked();
        let sent = Instant::now();
        client.send("/victim");
        server.end_block();
        client.receive("/victim");
        server.assert_waited("/victim", sent);
    }
}

#[test]
fn the_rest_of_a_head_has_waited() {
    for runtime in runtimes() {
        let server = BlockedServer::start(runtime);
        let mut client = Client::new(server.addr);
        let request = request("/victim");
        let (head, rest) = request.split_at(40);
        client.write(head);
        Client::new(server.addr).get("/other");
        let blocking = server.block();
        let sent = Instant::now();
        client.write(rest);
        server.end_block();
        client.receive("/victim");
        blocking.join().unwrap();
        server.assert_waited("/victim", sent);
    }
}

#[test]
fn a_late_body_is_not_the_wait_of_the_next_request() {
    for runtime in runtimes() {
        let server = BlockedServer::start(runtime);
        let mut client = Client::new(server.addr);
        client.write("POST /upload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 6\r\n\r\nup");
        // It has no row yet.
        eventually("the upload is called", || {
            server.monitor.routes().iter().any(|route| route.in_flight() == 1)
        });
        let blocking = server.block();
        client.write("load");
        server.end_block();
        client.receive("upload");
        blocking.join().unwrap();
        let sent = Instant::now();
        client.get("/other");
        server.assert_has_not_waited("/other", sent);
        let upload = stats(&server.monitor, "POST", "/upload");
        assert!(upload.is_none_or(|upload| upload.total_socket_wait() < BLOCKED));
    }
}

// === Other causes ===

#[test]
fn a_request_behind_an_unmeasured_task_has_waited() {
    for runtime in runtimes() {
        let handle = runtime.handle().clone();
        let server = BlockedServer::start(runtime);
        let mut client = Client::new(server.addr);
        client.get("/other");
        let (started, is_started) = channel();
        let (end, is_ended) = channel::<()>();
        drop(handle.spawn(async move {
            started.send(()).unwrap();
            is_ended.recv().unwrap();
            thread::sleep(BLOCKED);
        }));
        is_started.recv().unwrap();
        let sent = Instant::now();
        client.send("/victim");
        end.send(()).unwrap();
        client.receive("/victim");
        server.assert_waited("/victim", sent);
    }
}

/// The report waits for the requests, but not for long, so that a busy host may need several
/// stalls.
#[test]
fn a_request_that_waits_in_its_socket_counts_as_in_flight() {
    let server = BlockedServer::start(current_thread_runtime());
    let [mut one, mut other] = [(); 2].map(|()| Client::new(server.addr));
    let mut stalls = 0;
    eventually("both requests are counted", || {
        let blocking = server.block();
        one.send("/victim");
        other.send("/other");
        server.end_block();
        one.receive("/victim");
        other.receive("/other");
        blocking.join().unwrap();
        stalls += 1;
        let of_block = || {
            let ended = ended(&server.monitor).into_iter();
            ended.filter(|stall| stall.route() == "/block").collect::<Vec<_>>()
        };
        eventually("the stall is reported", || of_block().len() == stalls);
        let in_flight = of_block().last().unwrap().in_flight();
        assert!(in_flight <= 2, "{in_flight}");
        in_flight == 2
    });
}

// === Other listeners and streams ===

#[test]
fn the_peer_of_a_connection_is_known_behind_tap_io() {
    use axum::extract::ConnectInfo;

    let runtime = current_thread_runtime();
    let monitor = builder_for(&runtime).spawn().unwrap();
    let handler = async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string();
    let app = Router::new().route("/peer", get(handler)).layer(monitor.layer());
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let addr = listener.local_addr().unwrap();
    let listener = monitor.listener(listener).tap_io(|_| {});
    runtime.spawn(async {
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        axum::serve(listener, app).await.unwrap();
    });
    let client = thread::spawn(move || http_get(addr, "/peer").body);
    let peer = runtime.block_on(async {
        while !client.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        client.join().unwrap()
    });
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
}

#[test]
fn a_unix_socket_passes_through() {
    let runtime = current_thread_runtime();
    let monitor = builder_for(&runtime).spawn().unwrap();
    let app = Router::new().route("/victim", get(async || "/victim")).layer(monitor.layer());
    let (mut client, server) = std::os::unix::net::UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    let request = b"GET /victim HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    client.write_all(request).unwrap();
    runtime.block_on(async {
        let io = TokioIo::new(monitor.io(UnixStream::from_std(server).unwrap()));
        let builder = hyper::server::conn::http1::Builder::new();
        let service = TowerToHyperService::new(app);
        tokio::spawn(builder.serve_connection(io, service)).await.unwrap().unwrap();
    });
    let mut response = String::new();
    client.read_to_string(&mut response).unwrap();
    assert!(response.ends_with("/victim"), "{response}");
    let stats = stats(&monitor, "GET", "/victim").unwrap();
    assert_eq!((stats.requests(), stats.socket_waits()), (1, 0));
}
