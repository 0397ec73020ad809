//! Names background tasks, which can stall a runtime just as handlers can, with `instrument`.
//!
//! Run it with `cargo run --example background_tasks`. One of two tasks blocks its worker thread,
//! and each report names that task. Then
//!
//! ```text
//! curl -s http://127.0.0.1:9464/metrics | grep 'tower_stall_duration_seconds_count.*TASK'
//! ```

#![allow(clippy::print_stdout, reason = "the example prints the reports")]

use std::error::Error;
use std::time::Duration;

use tower_stall::StallMonitor;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tower_stall::prometheus::serve(([127, 0, 0, 1], 9464))?;
    let monitor = StallMonitor::builder().on_stall(|stall| println!("{stall}\n")).spawn()?;

    let refresh = tokio::spawn(monitor.instrument("refresh-cache", async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }));
    let cleanup = tokio::spawn(monitor.instrument("cleanup", async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // The mistake: this blocks the worker thread. `tokio::time::sleep` would not, nor would
            // `spawn_blocking` around this call.
            std::thread::sleep(Duration::from_millis(200));
        }
    }));

    refresh.await?;
    cleanup.await?;
    Ok(())
}
