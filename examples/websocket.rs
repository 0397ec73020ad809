//! Measures the connection of a WebSocket, which outlives the request that it was upgraded from.
//!
//! Run it with `cargo run --example websocket`, then send messages from any client, such as the
//! console of a browser:
//!
//! ```text
//! socket = new WebSocket("ws://127.0.0.1:3000/live"); socket.onopen = () => socket.send("report")
//! ```
//!
//! Each report names the route: `TASK /live stalled worker …`.

#![allow(clippy::print_stdout, reason = "the example prints the reports")]

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{MatchedPath, State};
use axum::response::Response;
use axum::routing::any;
use tokio::net::TcpListener;
use tower_stall::StallMonitor;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let monitor = StallMonitor::builder().on_stall(|stall| println!("{stall:#}\n")).spawn()?;
    tower_stall::prometheus::serve(([127, 0, 0, 1], 9464))?.show(&monitor);

    let app = Router::new().route("/live", any(live)).layer(monitor.layer()).with_state(monitor);
    axum::serve(TcpListener::bind("127.0.0.1:3000").await?, app).await?;
    Ok(())
}

/// The request ends with the response 101; the connection becomes a task of its own, which has the
/// name of the route.
async fn live(
    upgrade: WebSocketUpgrade,
    path: MatchedPath,
    State(monitor): State<StallMonitor>,
) -> Response {
    upgrade.on_upgrade(move |socket| monitor.instrument(path.as_str(), respond(socket)))
}

async fn respond(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        // The mistake: this blocks the worker thread, as a long computation would.
        std::thread::sleep(Duration::from_millis(150));
        if socket.send(message).await.is_err() {
            return;
        }
    }
}
