//! How soon stalls are detected, and how many are reported with their cause and line.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tower_stall::{Cause, StallMonitor};

use crate::child;
use crate::gauge_recorder::GaugeRecorder;
use crate::stats::quantile;

/// The default stall threshold.
const THRESHOLD: Duration = Duration::from_millis(25);
const GAUGE: &str = "tower_stall_in_progress_seconds";
/// The age at which a stall in progress is reported.
const IN_PROGRESS_AFTER: Duration = Duration::from_secs(1);

/// Counts the reports with a cause and with a line, of stalls `excess_ms` over the threshold.
pub fn attribution(excess_ms: usize) {
    const STALLS: usize = 100;
    let runtime = runtime();
    let (sender, reports) = mpsc::channel();
    let monitor =
        StallMonitor::builder().runtime(runtime.handle().clone()).on_stall(move |stall| {
            let _ = sender.send((stall.cause() != Cause::Unknown, stall.location().is_some()));
        });
    let monitor = monitor.reports_per_minute(u32::MAX).spawn().expect("a monitor");
    let stall_for = |duration| {
        let stall = monitor.instrument("stall", async move { thread::sleep(duration) });
        runtime.block_on(runtime.spawn(stall)).expect("no panic");
    };
    // The first report takes longest, because the symbols are loaded for it.
    stall_for(Duration::from_millis(200));
    let _ = reports.recv();
    for _ in 0..STALLS {
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
        stall_for(THRESHOLD + Duration::from_millis(excess_ms as u64));
    }
    let reports: Vec<_> = reports.iter().take(STALLS).collect();
    let percent = |count: usize| format!("{} %", 100 * count / STALLS);
    child::print_row(&[
        format!("{excess_ms} ms"),
        STALLS.to_string(),
        percent(reports.iter().filter(|(has_cause, _)| *has_cause).count()),
        percent(reports.iter().filter(|(_, has_line)| *has_line).count()),
    ]);
}

/// Measures the time from the threshold until the gauge of stalls in progress is positive.
pub fn gauge_latency(stalls: usize) {
    let (sender, updates) = mpsc::channel();
    metrics::set_global_recorder(GaugeRecorder::new(GAUGE, sender)).expect("the first recorder");
    let runtime = runtime();
    let monitor =
        StallMonitor::builder().runtime(runtime.handle().clone()).stall_threshold(THRESHOLD);
    let monitor = monitor.spawn().expect("a monitor");
    let mut latencies = Vec::with_capacity(stalls);
    // The first stall of a process is measured separately.
    let skipped = usize::from(stalls > 1);
    for index in 0..skipped + stalls {
        // Varies the phase of the stall relative to the watchdog's scans.
        thread::sleep(Duration::from_micros(20_000 + (index as u64 * 617) % 5_000));
        let stall = monitor.instrument("stall", async {
            let start = Instant::now();
            thread::sleep(4 * THRESHOLD);
            start
        });
        let start = runtime.block_on(runtime.spawn(stall)).expect("no panic");
        let update = updates.try_iter().find(|update| *update > start).expect("an update");
        latencies.push((update - start).as_secs_f64() * 1e3 - THRESHOLD.as_secs_f64() * 1e3);
    }
    print_latencies(&format!("in `{GAUGE}`, from the threshold"), &latencies[skipped..]);
}

/// Measures how late stalls in progress are reported.
pub fn report_latency(stalls: usize) {
    let runtime = runtime();
    let (sender, reports) = mpsc::channel();
    let monitor =
        StallMonitor::builder().runtime(runtime.handle().clone()).on_stall(move |stall| {
            if stall.is_in_progress() {
                let latency = stall.duration().as_secs_f64() - IN_PROGRESS_AFTER.as_secs_f64();
                let _ = sender.send(latency * 1e3);
            }
        });
    let monitor = monitor.reports_per_minute(u32::MAX).spawn().expect("a monitor");
    for _ in 0..stalls {
        let stall = monitor.instrument("stall", async {
            thread::sleep(IN_PROGRESS_AFTER + Duration::from_millis(100));
        });
        runtime.block_on(runtime.spawn(stall)).expect("no panic");
    }
    let latencies: Vec<f64> = reports.iter().take(stalls).collect();
    print_latencies("reported, from 1 s", &latencies);
}

fn print_latencies(name: &str, latencies: &[f64]) {
    let sample = match latencies.len() {
        1 => "first stall of a process".to_owned(),
        count => format!("{count} stalls"),
    };
    let at = |part| format!("{:.1} ms", quantile(latencies, part));
    child::print_row(&[format!("{name} ({sample})"), at(0.5), at(0.9), at(0.99), at(1.0)]);
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}
