//! Sets up the layer for a plain hyper service, without axum: a function returns the route.
//!
//! Run it with `cargo run --example hyper_route_label`, then
//!
//! ```text
//! curl http://127.0.0.1:3000/users/7
//! curl http://127.0.0.1:3000/nothing/here
//! sleep 1 # metrics follow within a second
//! curl -s http://127.0.0.1:9464/metrics | grep tower_stall_requests_total
//! ```

#![allow(clippy::print_stderr, reason = "the example prints connection errors")]

use std::convert::Infallible;
use std::error::Error;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
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
    let monitor = StallMonitor::builder()
        .route_label(|request| route(request.uri().path()).map(Into::into))
        .spawn()?;
    let service = monitor.layer().layer(tower::service_fn(respond));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let io = TokioIo::new(monitor.io(stream));
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new().serve_connection(io, service);
            if let Err(error) = connection.await {
                eprintln!("connection error: {error}");
            }
        });
    }
}

/// Returns the pattern of the path. Never return the path itself: each distinct value becomes a
/// label value of the metrics.
fn route(path: &str) -> Option<&'static str> {
    let mut parts = path.split('/').skip(1);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(""), None, None) => Some("/"),
        (Some("users"), Some(_), None) => Some("/users/{id}"),
        _ => None,
    }
}

async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match route(request.uri().path()) {
        Some(_) => (StatusCode::OK, "hello\n"),
        None => (StatusCode::NOT_FOUND, "not found\n"),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    Ok(response)
}
