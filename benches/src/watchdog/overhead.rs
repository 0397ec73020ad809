//! Wake-ups and CPU time of a monitor without stalls.

use std::task::Context;
use std::thread;
use std::time::{Duration, Instant};

use crate::benchmark::Benchmark;
use crate::child;
use crate::executor;
use crate::procfs;
use crate::recorders::Recorders;
use crate::variants::Variant;
use crate::workload::Workload;

/// The threads of a monitor.
const THREADS: [&str; 6] = [
    "tower-stall-watch",
    "tower-stall-symbols",
    "tower-stall-report",
    "tower-stall-log",
    "tower-stall-export",
    "tower-stall-rescue",
];
/// The prefix of the names of tokio's worker threads.
const WORKERS: &str = "tokio";
const SECONDS: u64 = 4;

/// Serves `rate` requests per second, in bursts every 2 ms.
pub fn child(rate: usize) {
    let recorders = Recorders::install();
    let waker = executor::waker();
    let mut cx = Context::from_waker(&waker);
    let mut benchmark = Benchmark::new(Variant::TowerStall, Workload::Ready, &recorders);
    benchmark.warm_up(100, &mut cx);
    thread::sleep(Duration::from_secs(2));
    let (cpu_before, wake_ups_before) = (cpu_time(), wake_ups());
    let start = Instant::now();
    let mut served = 0;
    while start.elapsed() < Duration::from_secs(SECONDS) {
        let due = (start.elapsed().as_secs_f64() * rate as f64) as usize;
        benchmark.warm_up(due - served, &mut cx);
        served = due;
        thread::sleep(Duration::from_millis(2));
    }
    let cpu_ms = (cpu_time() - cpu_before).as_secs_f64() * 1e3 / SECONDS as f64;
    let wake_ups = (wake_ups() - wake_ups_before) as f64 / SECONDS as f64;
    child::print_row(&[rate.to_string(), format!("{wake_ups:.0}"), format!("{cpu_ms:.2}")]);
}

fn cpu_time() -> Duration {
    THREADS.iter().map(|name| procfs::thread_cpu_time(name)).sum()
}

/// Returns the wake-ups of the monitor's threads and of the runtime that it watches.
fn wake_ups() -> u64 {
    THREADS.iter().chain([&WORKERS]).map(|name| procfs::wake_ups(name)).sum()
}
