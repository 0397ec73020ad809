//! The service: its routes, and the handlers of the healthy ones.

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
use crate::sick;
use crate::work::{self, Sizes};

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) disk: NetworkDisk,
    pub(crate) cache: Cache,
    pub(crate) accounts: Accounts,
    pub(crate) sizes: Sizes,
}

/// Answers requests from now on, and says where.
pub(crate) async fn start(address: SocketAddr, monitor: &StallMonitor) -> Result<SocketAddr, String> {
    let listener = TcpListener::bind(address).await.map_err(|error| cannot_listen(address, &error))?;
    let address = listener.local_addr().map_err(|error| cannot_listen(address, &error))?;
    let app = App::start().map_err(|error| format!("the service cannot start: {error}"))?;
    let router = routes().layer(monitor.layer()).with_state(app);
    tokio::spawn(axum::serve(listener, router).into_future());
    Ok(address)
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("port {} is in use; choose another by --port, or 0 for a free one", address.port())
        }
        _ => format!("the service cannot listen on {address}: {error} (--port)"),
    }
}

fn routes() -> Router<App> {
    Router::new()
        .route("/health", get(health))
        .route("/users/{id}", get(user))
        .route("/orders/{id}", get(order))
        .route("/thumbnails", post(thumbnail))
        .route("/legacy/report", get(sick::report))
        .route("/files/{name}", get(sick::file))
        .route("/cache/{key}", get(sick::cached))
        .route("/export", get(sick::export))
        .route("/accounts/{from}/transfer/{to}", get(sick::transfer))
        .route("/events", get(sick::events))
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

/// Waits for its database as one should.
async fn order(Path(id): Path<u64>) -> Json<Value> {
    time::sleep(Duration::from_millis(20 + id % 41)).await;
    Json(json!({ "id": id, "items": [1, 2, 3] }))
}

/// Computes for longer than the threshold, but on a thread that is there for it.
async fn thumbnail(State(app): State<App>, image: Bytes) -> Result<Vec<u8>, StatusCode> {
    let mut pixels = image.to_vec();
    let shrunk = task::spawn_blocking(move || {
        work::smooth(&mut pixels, app.sizes.thumbnail);
        pixels.into_iter().step_by(8).collect()
    });
    shrunk.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}
