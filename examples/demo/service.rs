//! The service: its routes, and the handlers of the non-blocking ones.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::{task, time};
use tower_stall::StallMonitor;

use crate::backends::{Accounts, Cache, NetworkDisk};
use crate::blocking;
use crate::work::{self, Sizes};

/// The state that the handlers share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) disk: NetworkDisk,
    pub(crate) cache: Cache,
    pub(crate) accounts: Accounts,
    pub(crate) sizes: Sizes,
}

/// Starts the service on the current runtime. Returns its address.
pub(crate) async fn start(
    address: SocketAddr,
    monitor: &StallMonitor,
) -> Result<SocketAddr, String> {
    let listener = TcpListener::bind(address).await.map_err(|error| bind_error(address, &error))?;
    let address = listener.local_addr().map_err(|error| bind_error(address, &error))?;
    let app = App::start().map_err(|error| format!("failed to start the service: {error}"))?;
    let router = routes().layer(monitor.layer()).with_state(app);
    tokio::spawn(axum::serve(monitor.listener(listener), router).into_future());
    Ok(address)
}

fn bind_error(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "port {} is in use; choose another one with --port, or 0 for any free port",
            address.port()
        ),
        _ => format!("failed to listen on {address}: {error} (--port)"),
    }
}

fn routes() -> Router<App> {
    Router::new()
        .route("/health", get(health))
        .route("/users/{id}", get(user))
        .route("/orders/{id}", get(order))
        .route("/thumbnails", post(thumbnail))
        .route("/legacy/report", get(blocking::report))
        .route("/files/{name}", get(blocking::file))
        .route("/cache/{key}", get(blocking::cached))
        .route("/export", get(blocking::export))
        .route("/accounts/{from}/transfer/{to}", get(blocking::transfer))
        .route("/events", get(blocking::events))
}

impl App {
    fn start() -> io::Result<Self> {
        let (disk, cache) = (NetworkDisk::mount()?, Cache::open()?);
        Ok(Self { disk, cache, accounts: Accounts::default(), sizes: Sizes::measure() })
    }
}

async fn health() -> &'static str {
    "ok"
}

async fn user(Path(id): Path<u64>) -> Json<Value> {
    Json(json!({ "id": id, "name": format!("user {id}") }))
}

/// Waits for its database without blocking.
async fn order(Path(id): Path<u64>) -> Json<Value> {
    time::sleep(Duration::from_millis(20 + id % 41)).await;
    Json(json!({ "id": id, "items": [1, 2, 3] }))
}

/// Computes for longer than the stall threshold, but in the blocking pool.
async fn thumbnail(State(app): State<App>, image: Bytes) -> Result<Vec<u8>, StatusCode> {
    let mut pixels = image.to_vec();
    let thumbnail = task::spawn_blocking(move || {
        work::smooth(&mut pixels, app.sizes.thumbnail);
        pixels.into_iter().step_by(8).collect()
    });
    thumbnail.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}
