//! A test that a request does not allocate, whether it waits or not.
#![allow(unsafe_code, clippy::unwrap_used, missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use http::{Request, Response};
use tower::{Layer, Service, service_fn};
use tower_stall::StallMonitor;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: All calls are forwarded to the system allocator; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: The contract is the caller's, unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: The contract is the caller's, unchanged.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A waker that `will_wake` its clones, which `Waker::noop` does not guarantee.
struct Task;

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

/// Returns the number of this thread's allocations during a request that is pending `waits` times.
fn allocations(monitor: &StallMonitor, waits: usize) -> usize {
    let work = move |_: Request<()>| {
        let mut left = waits;
        poll_fn(move |cx| {
            if left == 0 {
                return Poll::Ready(Ok::<_, Infallible>(Response::new(String::new())));
            }
            left -= 1;
            drop(cx.waker().clone());
            Poll::Pending
        })
    };
    let mut service = monitor.layer().layer(service_fn(work));
    let request = Request::new(());
    let waker = Waker::from(Arc::new(Task));
    let mut cx = Context::from_waker(&waker);
    let before = ALLOCATIONS.get();
    {
        let mut call = pin!(service.call(request));
        (0..waits).for_each(|_| assert!(call.as_mut().poll(&mut cx).is_pending()));
        assert!(call.as_mut().poll(&mut cx).is_ready());
    }
    ALLOCATIONS.get() - before
}

#[tokio::test]
async fn a_request_does_not_allocate_whether_it_waits_or_not() {
    let monitor = StallMonitor::builder()
        .stall_threshold(std::time::Duration::from_secs(60))
        .spawn()
        .unwrap();
    // The first request on a thread and the first of a route set up their state.
    assert!(allocations(&monitor, 0) > 0, "allocations are not counted");
    assert_eq!(allocations(&monitor, 0), 0);
    assert_eq!(allocations(&monitor, 1), 0);
    assert_eq!(allocations(&monitor, 100), 0);
}
