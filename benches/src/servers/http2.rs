//! HTTP/2: one connection with concurrent streams, client and server in one runtime.

use std::time::Instant;

use axum::body::Body;
use http_body_util::BodyExt;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};

use crate::Result;
use crate::child;
use crate::recorders::Recorders;
use crate::report::Table;
use crate::stats::Quartiles;
use crate::variants::Variant;
use crate::workload;

const VARIANTS: [Variant; 3] = [Variant::Identity, Variant::TowerStall, Variant::TaskMonitor];
const STREAMS: usize = 32;
const REQUESTS_PER_STREAM: usize = 50;
const ROUNDS: usize = 30;

pub fn table() -> Result<Table> {
    let mut table =
        Table::new(&["HTTP/2, one connection, 32 concurrent streams", "µs per request"]);
    for index in 0..VARIANTS.len() {
        table.row(&child::row("http2", index)?);
    }
    Ok(table)
}

pub fn child(index: usize) {
    let variant = VARIANTS[index];
    let recorders = Recorders::install();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let micros = runtime.expect("a runtime").block_on(async {
        let recorders = recorders.monitor_runtime(&Handle::current());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let app = variant.apply(workload::router(), &recorders);
        tokio::spawn(async move { axum::serve(listener, app).await });
        let socket = TokioIo::new(TcpStream::connect(address).await.expect("a connection"));
        let (sender, connection) =
            handshake(TokioExecutor::new(), socket).await.expect("an HTTP/2 connection");
        tokio::spawn(connection);
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let stream = |_| tokio::spawn(send_requests(sender.clone(), address.to_string()));
            let streams: Vec<_> = (0..STREAMS).map(stream).collect();
            for stream in streams {
                stream.await.expect("no panic");
            }
            let requests = (STREAMS * REQUESTS_PER_STREAM) as f64;
            rounds.push(start.elapsed().as_secs_f64() * 1e6 / requests);
        }
        Quartiles::of(&rounds)
    });
    child::print_row(&[variant.name().to_owned(), format!("{micros:.2}")]);
}

/// Sends requests one after the other.
async fn send_requests(mut sender: SendRequest<Body>, address: String) {
    for _ in 0..REQUESTS_PER_STREAM {
        let uri = format!("http://{address}/users/42");
        let request = http::Request::get(uri).body(Body::empty()).expect("a valid request");
        let response = sender.send_request(request).await.expect("a response");
        response.into_body().collect().await.expect("a body");
    }
}
