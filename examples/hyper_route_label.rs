//! Without axum: a plain hyper service, whose routes a function names.
//!
//! Run with `cargo run --example hyper_route_label`, then
//!
//! ```text
//! curl http://127.0.0.1:3000/users/7
//! curl http://127.0.0.1:3000/nothing/here
//! sleep 1 # metrics follow within a second
//! curl -s http://127.0.0.1:9464/metrics | grep tower_stall_requests_total
//! ```

#![allow(clippy::print_stderr, reason = "a connection's error is told to whoever runs the example")]

use std::convert::Infallible;
use std::error::Error;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tower::Layer;
use tower_stall::StallMonitor;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tower_stall::prometheus::serve(([127, 0, 0, 1], 9464))?;
    let monitor = StallMonitor::builder().route_label(route).spawn()?;
    let service = monitor.layer().layer(tower::service_fn(answer));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                eprintln!("a connection broke: {error}");
            }
        });
    }
}

/// The pattern, never the path: each distinct value is a label value.
fn route(_: &Method, uri: &Uri) -> Option<String> {
    let mut parts = uri.path().split('/').skip(1);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(""), None, None) => Some("/".into()),
        (Some("users"), Some(_), None) => Some("/users/{id}".into()),
        _ => None,
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match route(request.method(), request.uri()) {
        Some(_) => (StatusCode::OK, "hello\n"),
        None => (StatusCode::NOT_FOUND, "no such page\n"),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    Ok(response)
}
