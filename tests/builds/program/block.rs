//! The code that blocks, and where it does.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long the code blocks that does so for some time.
const DURATION: Duration = Duration::from_millis(600);

static LINE: AtomicU32 = AtomicU32::new(0);
static ELAPSED_NANOS: AtomicU64 = AtomicU64::new(0);

/// What is on the stack outside of the code that blocks.
#[derive(Clone, Copy, Default)]
pub(crate) struct Depth {
    pub(crate) calls: u32,
    /// The size of the frames below them, in bytes.
    pub(crate) frame: usize,
}

/// Blocks threads until it is opened.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    waiting: usize,
    is_open: bool,
}

/// Returns the line that has blocked.
pub(crate) fn line() -> u32 {
    LINE.load(Relaxed)
}

/// Returns for how long it has blocked.
pub(crate) fn elapsed() -> Duration {
    Duration::from_nanos(ELAPSED_NANOS.load(Relaxed))
}

/// Sleeps for [`DURATION`].
#[inline(never)]
pub(crate) fn sleep(depth: Depth) {
    at_depth(depth, &|| {
        let start = Instant::now();
        LINE.store(line!() + 1, Relaxed);
        std::thread::sleep(DURATION);
        ELAPSED_NANOS.store(start.elapsed().as_nanos() as u64, Relaxed);
    });
}

/// Computes for [`DURATION`].
#[inline(never)]
pub(crate) fn compute(depth: Depth) {
    at_depth(depth, &|| {
        let start = Instant::now();
        LINE.store(line!() + 1, Relaxed);
        while start.elapsed() < DURATION {
            spin_loop();
        }
        ELAPSED_NANOS.store(start.elapsed().as_nanos() as u64, Relaxed);
    });
}

/// Calls a function from `depth.calls` others, below frames of `depth.frame` bytes.
fn at_depth(depth: Depth, f: &dyn Fn()) {
    if depth.frame == 0 {
        return below_calls(depth.calls, f);
    }
    below_frames(depth.frame, &|| below_calls(depth.calls, f));
}

#[inline(never)]
fn below_frames(bytes: usize, f: &dyn Fn()) {
    const FRAME: usize = 64 << 10;
    let mut frame = [0_u8; FRAME];
    black_box(&mut frame);
    match bytes.checked_sub(FRAME) {
        None => f(),
        Some(bytes) => below_frames(bytes, f),
    }
    black_box(&mut frame);
}

#[inline(never)]
fn below_calls(calls: u32, f: &dyn Fn()) {
    match calls.checked_sub(1) {
        None => f(),
        Some(calls) => below_calls(calls, f),
    }
    black_box(calls);
}

// === impl Gate ===

impl Gate {
    /// Blocks until it is opened.
    #[inline(never)]
    pub(crate) fn block(&self, depth: Depth) {
        at_depth(depth, &|| {
            let start = Instant::now();
            self.0.0.lock().unwrap().waiting += 1;
            self.0.1.notify_all();
            let state = self.0.0.lock().unwrap();
            LINE.store(line!() + 1, Relaxed);
            drop(self.0.1.wait_while(state, |state| !state.is_open).unwrap());
            ELAPSED_NANOS.store(start.elapsed().as_nanos() as u64, Relaxed);
        });
    }

    /// Waits until so many threads are blocked.
    pub(crate) fn wait_for(&self, threads: usize) {
        let state = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(state, |state| state.waiting < threads).unwrap());
    }

    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap().is_open = true;
        self.0.1.notify_all();
    }
}
