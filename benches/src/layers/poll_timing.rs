//! The lower bound for timing polls: two clock reads and a bucket increment per poll, and one
//! counter increment per request.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::extract::Request;
use axum::response::Response;
use axum::routing::Route;
use axum::routing::future::RouteFuture;
use tower::Service;

thread_local! {
    static POLLS: [Cell<u64>; 64] = const { [const { Cell::new(0) }; 64] };
    static REQUESTS: Cell<u64> = const { Cell::new(0) };
}

/// A clock with ticks of any length.
pub trait Clock: Copy + Send + Sync + 'static {
    fn ticks(self) -> u64;
}

/// The time stamp counter.
#[derive(Clone, Copy)]
pub struct Tsc;

/// The OS clock, in nanoseconds since an origin.
#[derive(Clone, Copy)]
pub struct OsClock(pub Instant);

/// A route future with timed polls.
pub struct TimedFuture<C> {
    inner: RouteFuture<Infallible>,
    clock: C,
}

/// Returns the function of a [`FromFnLayer`](super::from_fn::FromFnLayer).
pub fn time_polls<C: Clock>(
    clock: C,
) -> impl FnMut(&mut Route, Request) -> TimedFuture<C> + Clone + Send + Sync {
    move |route, request| {
        REQUESTS.with(|requests| requests.set(requests.get() + 1));
        TimedFuture { inner: route.call(request), clock }
    }
}

/// Returns the requests counted on this thread, or 0 if a poll is missing from the buckets.
pub fn recorded_requests() -> u64 {
    let polls: u64 = POLLS.with(|polls| polls.iter().map(Cell::get).sum());
    if polls >= REQUESTS.get() { REQUESTS.get() } else { 0 }
}

impl Clock for Tsc {
    #[cfg(target_arch = "x86_64")]
    fn ticks(self) -> u64 {
        // SAFETY: Every x86_64 processor has this instruction, and it does not access memory.
        unsafe { std::arch::x86_64::_rdtsc() }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn ticks(self) -> u64 {
        quanta::Clock::new().raw()
    }
}

impl Clock for OsClock {
    fn ticks(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

impl<C: Clock + Unpin> Future for TimedFuture<C> {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let start = self.clock.ticks();
        let result = Pin::new(&mut self.inner).poll(cx);
        let bucket = 63 - ((self.clock.ticks() - start) | 1).leading_zeros();
        POLLS.with(|polls| polls[bucket as usize].set(polls[bucket as usize].get() + 1));
        result
    }
}
