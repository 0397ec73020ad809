//! Which thread is which worker, which tokio tells since version 1.54.

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tower_stall::StallMonitor;

use super::{ended, eventually};

const ROUTE: &str = "worker";

/// Waits until the monitor has found out all workers. Returns at once if tokio tells them.
pub(crate) fn wait_until_workers_are_known(runtime: &Runtime, monitor: &StallMonitor) {
    if tokio_tells_the_worker() {
        return;
    }
    let workers = runtime.metrics().num_workers();
    eventually("each worker is named in a report", || {
        stall_each_worker(runtime, monitor, workers);
        let stalls = ended(monitor).into_iter().filter(|stall| stall.route() == ROUTE);
        stalls.filter_map(|stall| stall.worker()).collect::<BTreeSet<_>>().len() == workers
    });
}

fn stall_each_worker(runtime: &Runtime, monitor: &StallMonitor, workers: usize) {
    let barrier = Arc::new(Barrier::new(workers));
    let spawn = |_| {
        let barrier = Arc::clone(&barrier);
        runtime.spawn(monitor.instrument(ROUTE, async move {
            barrier.wait();
            thread::sleep(Duration::from_millis(30));
        }))
    };
    let tasks: Vec<_> = (0..workers).map(spawn).collect();
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
}

/// Returns whether tokio tells which worker a thread is.
pub(crate) fn tokio_tells_the_worker() -> bool {
    // Shadows the function of this module, if it has one of this name.
    #[allow(clippy::wildcard_imports)]
    use tokio::runtime::*;
    worker_index() != Some(usize::MAX)
}

/// Called with versions of tokio that do not have it.
fn worker_index() -> Option<usize> {
    Some(usize::MAX)
}
