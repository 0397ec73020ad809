//! A test that a thread is sampled while it holds the allocator's only lock: the watchdog does not
//! allocate.
#![allow(clippy::unwrap_used, missing_docs, unsafe_code)]
#![cfg(stacks_supported)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tower_stall::Cause;

use self::support::{eventually, runtime, scrape};

/// The system allocator behind a spin lock.
struct OneLock(AtomicBool);

#[global_allocator]
static ALLOCATOR: OneLock = OneLock(AtomicBool::new(false));

impl OneLock {
    fn with<T>(&self, f: impl FnOnce() -> T) -> T {
        while self.0.swap(true, Ordering::Acquire) {
            thread::yield_now();
        }
        let result = f();
        self.0.store(false, Ordering::Release);
        result
    }
}

// SAFETY: All calls are forwarded to the system allocator.
unsafe impl GlobalAlloc for OneLock {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: The contract is the caller's, unchanged.
        self.with(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: The contract is the caller's, unchanged.
        self.with(|| unsafe { System.dealloc(pointer, layout) });
    }
}

#[test]
fn a_thread_asleep_with_the_allocator_lock_is_sampled() {
    let runtime = runtime(2);
    let monitor = support::builder().runtime(runtime.handle().clone()).spawn().unwrap();
    // A thread that starts allocates.
    eventually("the watchdog scans", || {
        scrape().sum("tower_stall_watchdog_ticks_total", &[]) > 0.0
    });
    for _ in 0..3 {
        let holds = monitor.instrument("holds", async {
            ALLOCATOR.with(|| thread::sleep(Duration::from_millis(200)));
        });
        runtime.block_on(runtime.spawn(holds)).unwrap();
    }
    let stalls = || {
        monitor
            .recent_stalls()
            .into_iter()
            .filter(|stall| stall.route() == "holds")
            .collect::<Vec<_>>()
    };
    // Their stacks are symbolized after they are counted.
    eventually("all are reported with their line", || {
        stalls().iter().filter(|stall| stall.location().is_some()).count() == 3
    });
    for stall in stalls() {
        assert_eq!(
            (stall.cause(), stall.syscall()),
            (Cause::Blocked, Some("clock_nanosleep")),
            "{stall}"
        );
        let location = stall.location().unwrap();
        assert!(location.file().ends_with("one_lock_allocator.rs"), "{stall}");
    }
}
