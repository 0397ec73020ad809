//! A service that blocks once, in one way, and prints as JSON what was reported of it.
//!
//! `blocking-program WORK STATE [CALLS FRAME]`: the kind of work is one of [`Work`]; in the state
//! `traffic`, other requests are served all along, in `idle`, none; the code that blocks is CALLS
//! deep, below a frame of FRAME bytes.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod block;
mod client;
mod service;
mod work;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Builder;
use tower_stall::{StallMonitor, prometheus};

use self::block::{Depth, Gate};
use self::service::Service;
use self::work::Work;

/// So long the process is idle before it blocks: the watchdog is idle after 100 ms.
const IDLE: Duration = Duration::from_millis(600);
const WORKERS: usize = 2;

fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let work = Work::from_name(&args[0]).expect("a kind of work");
    let depth = match &args[2..] {
        [calls, frame] => Depth { calls: calls.parse().unwrap(), frame: frame.parse().unwrap() },
        _ => Depth::default(),
    };
    let mut runtime = Builder::new_multi_thread();
    runtime.worker_threads(WORKERS).enable_all();
    if work == Work::InPlaceWithoutThread {
        runtime.max_blocking_threads(work::OCCUPIED_THREADS);
    }
    let runtime = runtime.build().unwrap();
    let metrics = prometheus::serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
    let stalls = Arc::new(Mutex::new(Vec::new()));
    let reports = Arc::clone(&stalls);
    let monitor = StallMonitor::builder()
        .runtime(runtime.handle().clone())
        .on_stall(move |stall| reports.lock().unwrap().push(serde_json::to_value(stall).unwrap()))
        .spawn()
        .unwrap();
    let service = Service::start(&runtime, &monitor, Gate::default(), depth);
    match args[1].as_str() {
        "traffic" => client::send_traffic(service.addr),
        "idle" => std::thread::sleep(IDLE),
        state => panic!("unknown state: {state}"),
    }

    let during = work.run(&service, &|| Observed {
        in_progress: in_progress(&monitor),
        metrics: client::get(metrics, "/metrics").unwrap(),
    });
    // What is queued is reported first.
    monitor.shutdown();
    let output = json!({
        "blocked_at": block::line(),
        "elapsed_seconds": block::elapsed().as_secs_f64(),
        "stalls": *stalls.lock().unwrap(),
        "during": during.map(|during| json!({
            "in_progress": during.in_progress, "metrics": during.metrics,
        })),
        "metrics": client::get(metrics, "/metrics").unwrap(),
    });
    println!("{output}");
    // Some of the work never ends.
    std::process::exit(0);
}

/// What is visible while the work blocks.
struct Observed {
    in_progress: Vec<Value>,
    metrics: String,
}

fn in_progress(monitor: &StallMonitor) -> Vec<Value> {
    let stalls = monitor.recent_stalls();
    let stalls = stalls.iter().filter(|stall| stall.is_in_progress());
    stalls.map(|stall| serde_json::to_value(stall).unwrap()).collect()
}
