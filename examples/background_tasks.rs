//! Background tasks stall a runtime as well as handlers do. `instrument` names them.
//!
//! Run with `cargo run --example background_tasks`: one of two tasks blocks its thread, and each report says which. Then
//!
//! ```text
//! curl -s http://127.0.0.1:9464/metrics | grep 'tower_stall_duration_seconds_count.*TASK'
//! ```

#![allow(clippy::print_stdout, reason = "the reports are what the example shows")]

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
    let clean = tokio::spawn(monitor.instrument("clean-up", async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // The mistake: this holds the worker. `tokio::time::sleep`, or `spawn_blocking` around it, would not.
            std::thread::sleep(Duration::from_millis(200));
        }
    }));

    refresh.await?;
    clean.await?;
    Ok(())
}
