//! The least that could tell poll times and a request count: two clock reads and a bucket add for each poll, one count for each request.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::Response;
use axum::routing::Route;
use axum::routing::future::RouteFuture;
use tower::Service;

thread_local! {
    static POLLS: [Cell<u64>; 64] = const { [const { Cell::new(0) }; 64] };
    static REQUESTS: Cell<u64> = const { Cell::new(0) };
}

/// A clock in ticks of its own.
pub trait Ticks: Copy + Send + Sync + 'static {
    fn now(self) -> u64;
}

/// The time stamp counter.
#[derive(Clone, Copy)]
pub struct Counter;

/// The OS clock.
#[derive(Clone, Copy)]
pub struct Os(pub std::time::Instant);

/// A route's future whose polls are timed.
pub struct Timed<T> {
    inner: RouteFuture<Infallible>,
    ticks: T,
}

pub fn call<T: Ticks>(ticks: T) -> impl FnMut(&mut Route, Request) -> Timed<T> + Clone + Send + Sync {
    move |route, request| {
        REQUESTS.with(|requests| requests.set(requests.get() + 1));
        Timed { inner: route.call(request), ticks }
    }
}

/// Requests counted on this thread, or 0 if not every poll went into a bucket.
pub fn counted() -> u64 {
    let polls: u64 = POLLS.with(|polls| polls.iter().map(Cell::get).sum());
    if polls >= REQUESTS.get() { REQUESTS.get() } else { 0 }
}

impl Ticks for Counter {
    #[cfg(target_arch = "x86_64")]
    fn now(self) -> u64 {
        // SAFETY: an instruction that every x86_64 has, and that touches no memory.
        unsafe { std::arch::x86_64::_rdtsc() }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn now(self) -> u64 {
        quanta::Clock::new().raw()
    }
}

impl Ticks for Os {
    fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

impl<T: Ticks + Unpin> Future for Timed<T> {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let start = self.ticks.now();
        let result = Pin::new(&mut self.inner).poll(cx);
        let bucket = 63 - ((self.ticks.now() - start) | 1).leading_zeros();
        POLLS.with(|polls| polls[bucket as usize].set(polls[bucket as usize].get() + 1));
        result
    }
}
