//! The whole set-up: an exporter, a monitor, a layer.
//!
//! Run with `cargo run --example axum_minimal`, then
//!
//! ```text
//! curl http://127.0.0.1:3000/users/7
//! sleep 1 # metrics follow within a second
//! curl -s http://127.0.0.1:9464/metrics | grep tower_stall_requests_total
//! ```

use axum::extract::Path;
use tower_stall::StallMonitor;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tower_stall::prometheus::serve(([127, 0, 0, 1], 9464))?;
    let monitor = StallMonitor::builder().spawn()?;

    let app = axum::Router::new().route("/users/{id}", axum::routing::get(show_user)).layer(monitor.layer());
    axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?;
    Ok(())
}

async fn show_user(Path(id): Path<u32>) -> String {
    format!("user {id}\n")
}
