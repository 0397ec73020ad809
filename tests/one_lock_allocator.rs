//! A test that a thread which holds the allocator's only lock is seen all the same: the watchdog does not allocate.
#![allow(clippy::unwrap_used, missing_docs, unsafe_code)]
#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tower_stall::Cause;

use self::support::{eventually, scrape};

/// The system's allocator behind one lock that spins.
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

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for OneLock {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        self.with(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        self.with(|| unsafe { System.dealloc(pointer, layout) });
    }
}

#[test]
fn who_sleeps_with_the_allocator_s_lock_is_named() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let monitor = support::builder().runtime(runtime.handle().clone()).spawn().unwrap();
    // To start, a thread needs the allocator.
    eventually("the watchdog looks", || scrape().sum("tower_stall_watchdog_ticks_total", &[]) > 0.0);
    for _ in 0..3 {
        let holds = monitor.instrument("holds", async {
            ALLOCATOR.with(|| thread::sleep(Duration::from_millis(200)));
        });
        runtime.block_on(runtime.spawn(holds)).unwrap();
    }
    let told = || monitor.recent_stalls().into_iter().filter(|stall| stall.route() == "holds").collect::<Vec<_>>();
    eventually("all are told", || told().len() == 3);
    for stall in told() {
        assert_eq!((stall.cause(), stall.syscall()), (Cause::Blocked, Some("clock_nanosleep")), "{stall}");
        let location = stall.location().unwrap();
        assert!(location.file().ends_with("one_lock_allocator.rs"), "{stall}");
    }
}
