//! Your own exporter, with your own options, outside the runtime that it tells of.
//!
//! Run with `cargo run --example own_recorder`, then
//!
//! ```text
//! curl http://127.0.0.1:3000/
//! sleep 1 # metrics follow within a second
//! curl -s http://127.0.0.1:9464/metrics | grep tower_stall_request_duration_seconds
//! ```
//!
//! A process that has a recorder already needs nothing of this: `StallMonitor` writes to whatever recorder is installed. Only let its
//! builder go through `tower_stall::prometheus::buckets`, or the histograms become summaries.

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
    export("127.0.0.1:9464", metrics)?;

    let monitor = StallMonitor::builder().spawn()?;
    let app = Router::new().route("/", get(|| async { "hello\n" })).layer(monitor.layer());
    axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?;
    Ok(())
}

/// Answers on a thread and a runtime of its own. A route of the watched application would be silent during a stall.
fn export(addr: &str, metrics: PrometheusHandle) -> Result<(), Box<dyn Error>> {
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
        let app = Router::new().route("/metrics", get(move || std::future::ready(metrics.render())));
        axum::serve(tokio::net::TcpListener::from_std(listener)?, app).await
    };
    let run = move || match runtime.block_on(serve) {
        Ok(()) => {}
        Err(error) => tracing::error!(%error, "metrics are no longer served"),
    };
    std::thread::Builder::new().name("metrics".into()).spawn(run)?;
    Ok(())
}
