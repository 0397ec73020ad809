//! Tests that what cannot work is a clear error, at once, and never a panic.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tower_stall::{StallMonitor, StallMonitorBuilder};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn refused(builder: StallMonitorBuilder) -> String {
    builder.spawn().unwrap_err().to_string()
}

#[test]
fn no_runtime() {
    let error = refused(StallMonitor::builder());
    assert!(error.contains("no tokio runtime") && error.contains("StallMonitorBuilder::runtime"), "{error}");
}

#[test]
fn a_runtime_without_timers_or_io() {
    let bare = Builder::new_current_thread().build().unwrap();
    let error = refused(StallMonitor::builder().runtime(bare.handle().clone()));
    assert!(error.contains("no timer") && error.contains("enable_all"), "{error}");
    let timed = Builder::new_current_thread().enable_time().build().unwrap();
    let error = refused(StallMonitor::builder().runtime(timed.handle().clone()));
    assert!(error.contains("no I/O") && error.contains("enable_all"), "{error}");
}

#[test]
fn options_out_of_range() {
    let runtime = runtime();
    let builder = || StallMonitor::builder().runtime(runtime.handle().clone());
    assert!(refused(builder().stall_threshold(Duration::ZERO)).contains("threshold is zero"));
    assert!(refused(builder().max_routes(0)).contains("from 1 to 16384"));
    assert!(refused(builder().max_routes(usize::MAX)).contains("from 1 to 16384"));
    assert!(refused(builder().runtime_name("")).contains("runtime_name is empty"));
}

#[test]
fn absurd_options_that_work() {
    let runtime = runtime();
    for threshold in [Duration::from_nanos(1), Duration::MAX] {
        let builder = StallMonitor::builder().runtime(runtime.handle().clone());
        let builder = builder.stall_threshold(threshold).reports_per_minute(u32::MAX).max_routes(16_384);
        let monitor = builder.spawn().unwrap();
        runtime.block_on(monitor.instrument("task", async {}));
    }
}

#[test]
fn a_runtime_that_has_shut_down() {
    let runtime = runtime();
    let handle = runtime.handle().clone();
    drop(runtime);
    // Whether it is refused or watched in vain, nothing panics.
    drop(StallMonitor::builder().runtime(handle).spawn());
}
