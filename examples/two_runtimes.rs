//! Runs latency-sensitive and long-running work on two runtimes, each with its own monitor.
//!
//! Run it with `cargo run --example two_runtimes`, then
//!
//! ```text
//! curl http://127.0.0.1:3000/report &
//! curl http://127.0.0.1:3000/
//! sleep 1 # metrics follow within a second
//! curl -s http://127.0.0.1:9464/metrics | grep tower_stall_workers_stalled
//! ```
//!
//! The report occupies a worker thread of the runtime `batch` for half a second. The runtime `main`
//! has no stalls.

use std::error::Error;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::runtime::{Builder, Handle};
use tower_stall::StallMonitor;

fn main() -> Result<(), Box<dyn Error>> {
    tower_stall::prometheus::serve(([127, 0, 0, 1], 9464))?;
    let main = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut builder = Builder::new_multi_thread();
    let batch = builder.worker_threads(1).thread_name("batch").enable_all().build()?;

    let main_monitor = StallMonitor::builder().runtime(main.handle().clone()).spawn()?;
    // Polls that are far too long for a request are normal for a batch job.
    let batch_monitor = StallMonitor::builder()
        .runtime(batch.handle().clone())
        .runtime_name("batch")
        .stall_threshold(Duration::from_secs(5))
        .spawn()?;

    let report = {
        let batch = batch.handle().clone();
        move || report(batch.clone(), batch_monitor.clone())
    };
    let app = Router::new()
        .route("/", get(|| async { "hello\n" }))
        .route("/report", get(report))
        .layer(main_monitor.layer());
    main.block_on(async {
        axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?;
        Ok(())
    })
}

/// Waits for the batch runtime without blocking a worker thread of the main one.
async fn report(batch: Handle, monitor: StallMonitor) -> Result<String, StatusCode> {
    let work = async { add_up(Duration::from_millis(500)) };
    match batch.spawn(monitor.instrument("report", work)).await {
        Ok(sum) => Ok(format!("{sum}\n")),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn add_up(duration: Duration) -> u64 {
    let start = Instant::now();
    let mut sum = 0_u64;
    while start.elapsed() < duration {
        sum = (0..10_000).fold(sum, |sum, n| std::hint::black_box(sum.wrapping_add(n)));
    }
    sum
}
