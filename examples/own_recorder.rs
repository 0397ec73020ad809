//! Serves the metrics with your own exporter and its options, outside the monitored runtime.
//!
//! Run it with `cargo run --example own_recorder`, then
//!
//! ```text
//! curl http://127.0.0.1:3000/
//! sleep 1 # metrics follow within a second
//! curl -s http://127.0.0.1:9464/metrics | grep tower_stall_request_duration_seconds
//! ```
//!
//! A process that already has a recorder needs none of this: `StallMonitor` uses the installed
//! recorder. Only pass its builder through `tower_stall::prometheus::buckets`; without buckets the
//! exporter turns the histograms into summaries.

use std::error::Error;
use std::net::TcpListener;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tower_stall::StallMonitor;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let builder = PrometheusBuilder::new().add_global_label("service", "shop");
    let metrics = tower_stall::prometheus::buckets(builder).install_recorder()?;
    serve("127.0.0.1:9464", metrics)?;

    let monitor = StallMonitor::builder().spawn()?;
    let app = Router::new().route("/", get(|| async { "hello\n" })).layer(monitor.layer());
    axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?;
    Ok(())
}

/// Serves the metrics on a separate thread and runtime. A route of the monitored application would
/// not respond during a stall.
fn serve(addr: &str, metrics: PrometheusHandle) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    let serve = async move {
        let upkeep = metrics.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                upkeep.run_upkeep();
            }
        });
        let render = move || std::future::ready(metrics.render());
        let app = Router::new().route("/metrics", get(render));
        axum::serve(tokio::net::TcpListener::from_std(listener)?, app).await
    };
    let run = move || match runtime.block_on(serve) {
        Ok(()) => {}
        Err(error) => tracing::error!(%error, "the metrics server failed"),
    };
    std::thread::Builder::new().name("metrics".into()).spawn(run)?;
    Ok(())
}
