//! A process that cannot start a thread must not be harmed by that.
//!
//! A limit on the address space stands for all causes: root has no limit on processes, and a limit
//! of a control group needs one. A thread needs 2 MiB of it, which the heap does not.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs, unsafe_code)]
#![cfg(all(target_os = "linux", feature = "prometheus"))]

mod support;

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tower_stall::prometheus::serve;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata};

use self::support::{
    DEADLINE, current_thread_runtime, in_own_process, install_recorder, monitor_for, scrape,
};

/// As long as it lives, no thread can be started.
struct NoThreads {
    before: libc::rlimit,
    /// Have all the stacks that glibc keeps for new threads.
    parked: Vec<JoinHandle<()>>,
}

impl NoThreads {
    fn new() -> Self {
        const ROOM: u64 = 1 << 20;
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: it points to a limit.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut before) }, 0);
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
        set_limit(libc::rlimit { rlim_cur: pages * 4096 + ROOM, ..before });
        let park = || thread::Builder::new().spawn(thread::park).ok();
        Self { before, parked: std::iter::from_fn(park).collect() }
    }
}

impl Drop for NoThreads {
    fn drop(&mut self) {
        set_limit(self.before);
        for thread in self.parked.drain(..) {
            thread.thread().unpark();
            thread.join().unwrap();
        }
    }
}

fn set_limit(limit: libc::rlimit) {
    // SAFETY: it points to a limit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

/// Runs a runtime until a condition holds.
fn drive_until(runtime: &Runtime, what: &str, holds: impl Fn() -> bool) {
    runtime.block_on(async {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < DEADLINE, "timed out waiting for: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_server_without_a_thread_is_an_error() {
    in_own_process(|| {
        let runtime = current_thread_runtime();
        let none = NoThreads::new();
        let error = runtime.block_on(async { serve(([127, 0, 0, 1], 0)).unwrap_err() });
        assert_eq!(error.to_string(), "failed to spawn the thread that serves metrics");
        assert!(error.source().is_some());
        drop(none);
        runtime.block_on(async { serve(([127, 0, 0, 1], 0)).unwrap() });
    });
}

/// `spawn_blocking` panics if it cannot start the first thread of the pool.
#[test]
fn the_blocking_pool_is_not_probed_without_a_thread() {
    in_own_process(|| {
        install_recorder();
        let warnings = Warnings::default();
        let runtime = current_thread_runtime();
        let monitor = tracing::subscriber::with_default(warnings.clone(), || monitor_for(&runtime));
        let none = NoThreads::new();
        drive_until(&runtime, "a warning", || warnings.0.load(Ordering::Relaxed) > 0);
        let sum = |name: &str| scrape().sum(name, &[("runtime", "main")]);
        let probes = sum("tower_stall_lag_seconds_count");
        drive_until(&runtime, "more lag probes", || sum("tower_stall_lag_seconds_count") > probes);
        assert_eq!(sum("tower_stall_blocking_pool_delay_seconds_count"), 0.0);
        drop(none);
        let delays = || sum("tower_stall_blocking_pool_delay_seconds_count");
        drive_until(&runtime, "a delay of the pool", || delays() > 0.0);
        drop(monitor);
    });
}

/// Counts the warnings of this crate.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "tower_stall" && *metadata.level() == Level::WARN
    }

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
