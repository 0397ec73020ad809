//! The cost of exporting metrics while requests are served.

use std::thread;
use std::time::{Duration, Instant};

use crate::procfs;
use crate::recorders::Recorders;

/// Returns the cells for the time of a scrape, its lines, and the CPU time of the exporter thread.
pub fn cells(recorders: &Recorders, mut serve_requests: impl FnMut()) -> [String; 3] {
    const SECONDS: u32 = 10;
    let exporter_cpu = || procfs::thread_cpu_time("tower-stall-export");
    let before = exporter_cpu();
    for _ in 0..SECONDS * 10 {
        serve_requests();
        thread::sleep(Duration::from_millis(100));
    }
    let exporter_ms = (exporter_cpu() - before).as_secs_f64() * 1e3 / f64::from(SECONDS);
    recorders.prometheus.run_upkeep();
    let start = Instant::now();
    let text = recorders.prometheus.render();
    let scrape_ms = start.elapsed().as_secs_f64() * 1e3;
    let lines = text.lines().filter(|line| line.starts_with("tower_stall_")).count();
    [format!("{scrape_ms:.1}"), lines.to_string(), format!("{exporter_ms:.2}")]
}
