//! Work that must be quick and work that may be long, on two runtimes, each with a monitor.
//!
//! Run with `cargo run --example two_runtimes`, then
//!
//! ```text
//! curl http://127.0.0.1:3000/report &
//! curl http://127.0.0.1:3000/
//! sleep 1 # metrics follow within a second
//! curl -s http://127.0.0.1:9464/metrics | grep tower_stall_workers_stalled
//! ```
//!
//! The report holds a worker of the runtime `batch` for half a second. The runtime `main` stalls never.

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
    let batch = Builder::new_multi_thread().worker_threads(1).thread_name("batch").enable_all().build()?;

    // What is a stall for a request is the daily work of a batch.
    let of_batch = StallMonitor::builder()
        .runtime(batch.handle().clone())
        .runtime_name("batch")
        .stall_threshold(Duration::from_secs(5))
        .spawn()?;
    let of_main = StallMonitor::builder().runtime(main.handle().clone()).spawn()?;

    let report = {
        let batch = batch.handle().clone();
        move || report(batch.clone(), of_batch.clone())
    };
    let app =
        Router::new().route("/", get(|| async { "hello\n" })).route("/report", get(report)).layer(of_main.layer());
    main.block_on(async {
        axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?;
        Ok(())
    })
}

/// Waits for the batch runtime without holding a worker of the main one.
async fn report(batch: Handle, monitor: StallMonitor) -> Result<String, StatusCode> {
    let sum = batch.spawn(monitor.instrument("report", async { add_up(Duration::from_millis(500)) }));
    match sum.await {
        Ok(sum) => Ok(format!("{sum}\n")),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn add_up(time: Duration) -> u64 {
    let began = Instant::now();
    let mut sum = 0_u64;
    while began.elapsed() < time {
        sum = (0..10_000).fold(sum, |sum, n| std::hint::black_box(sum.wrapping_add(n)));
    }
    sum
}
