//! Tests that invalid options are clear errors at once, and that extreme but valid ones work.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tower_stall::{StallMonitor, StallMonitorBuilder};

use self::support::{builder_for, current_thread_runtime, ended, eventually, runtime, stats};

fn error_of(builder: StallMonitorBuilder) -> String {
    builder.spawn().unwrap_err().to_string()
}

#[test]
fn no_runtime_is_an_error() {
    let error = error_of(StallMonitor::builder());
    assert!(error.contains("no tokio runtime"), "{error}");
    assert!(error.contains("StallMonitorBuilder::runtime"), "{error}");
}

#[test]
fn a_runtime_without_a_timer_is_an_error() {
    let bare = Builder::new_current_thread().build().unwrap();
    let error = error_of(builder_for(&bare));
    assert!(error.contains("no timer") && error.contains("enable_all"), "{error}");
}

/// Only the detection of driver starvation needs I/O.
#[test]
fn a_runtime_without_io_is_watched_without_starvation_detection() {
    let timers_only = Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let monitor = builder_for(&timers_only).spawn().unwrap();
    let nap = monitor.instrument("nap", async { thread::sleep(Duration::from_millis(150)) });
    timers_only.block_on(timers_only.spawn(nap)).unwrap();
    eventually("the stall is reported", || ended(&monitor).len() == 1);
    let stall = ended(&monitor).remove(0);
    assert_eq!((stall.method(), stall.route()), ("TASK", "nap"), "{stall}");
    assert!(!stall.is_io_starved() && !stall.is_rescued(), "{stall}");
}

#[test]
fn options_out_of_range_are_errors() {
    let runtime = current_thread_runtime();
    let builder = || builder_for(&runtime);
    let zero = error_of(builder().stall_threshold(Duration::ZERO));
    assert!(zero.contains("must be greater than zero"), "{zero}");
    for max_routes in [0, usize::MAX] {
        let error = builder().max_routes(max_routes).spawn().unwrap_err();
        assert!(error.is_invalid_option());
        assert!(error.to_string().contains("between 1 and 16384"), "{error}");
    }
    let empty = error_of(builder().runtime_name(""));
    assert!(empty.contains("`runtime_name` must not be empty"), "{empty}");
}

#[test]
fn extreme_options_work() {
    let runtime = current_thread_runtime();
    for (threshold, is_stall) in [(Duration::from_nanos(1), true), (Duration::MAX, false)] {
        let builder = builder_for(&runtime).stall_threshold(threshold);
        let monitor = builder.reports_per_minute(u32::MAX).max_routes(16_384).spawn().unwrap();
        runtime.block_on(monitor.instrument("task", async {}));
        let task = stats(&monitor, "TASK", "task").unwrap();
        assert_eq!((task.requests(), task.in_flight(), task.polls()), (1, 0, 1));
        let is_reported = || ended(&monitor).iter().any(|stall| stall.route() == "task");
        if is_stall {
            eventually("the poll is a stall", is_reported);
        } else {
            support::holds_for(Duration::from_millis(50), "no poll is a stall", || !is_reported());
        }
    }
}

/// Nothing runs on such a runtime any more, but tasks instrumented by its monitor may run on
/// another. The monitor reports their stalls; it has nothing to say about the runtime itself.
#[test]
fn a_monitor_of_a_runtime_that_has_shut_down_reports_stalls_of_others() {
    for gone in [current_thread_runtime(), runtime(2)] {
        let handle = gone.handle().clone();
        drop(gone);
        let monitor = StallMonitor::builder().runtime(handle).spawn().unwrap();
        let other = runtime(1);
        // Long enough for the driver's probe, if there were one, to find starvation.
        let nap = monitor.instrument("nap", async { thread::sleep(Duration::from_millis(150)) });
        other.block_on(other.spawn(nap)).unwrap();
        eventually("the stall is reported", || ended(&monitor).len() == 1);
        let stall = ended(&monitor).remove(0);
        assert_eq!((stall.method(), stall.route()), ("TASK", "nap"), "{stall}");
        assert!(!stall.is_io_starved() && !stall.is_rescued(), "{stall}");
        assert!(stall.duration() >= Duration::from_millis(150), "{stall}");
    }
}
