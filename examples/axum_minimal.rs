//! The complete setup for axum: a subscriber, a monitor, an exporter and a layer.
//!
//! Run it with `cargo run --example axum_minimal`, then
//!
//! ```text
//! curl http://127.0.0.1:3000/users/7
//! sleep 1 # metrics follow within a second
//! curl -s http://127.0.0.1:9464/metrics | grep tower_stall_requests_total
//! ```

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use tokio::net::TcpListener;
use tower_stall::StallMonitor;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    let monitor = StallMonitor::builder().spawn()?;
    tower_stall::prometheus::serve(([127, 0, 0, 1], 9464))?.show(&monitor);

    let app = Router::new().route("/users/{id}", get(show_user)).layer(monitor.layer());
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    axum::serve(monitor.listener(listener), app).await?;
    Ok(())
}

async fn show_user(Path(id): Path<u32>) -> String {
    format!("user {id}\n")
}
