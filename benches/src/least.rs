//! The least that a layer can do which tells of each request what tower-stall tells: the route, the span, three timed polls with
//! stamps for a watchdog, busy and request time, the outcome.
//!
//! And nothing of what makes that right in every case: no other clock where the counter is not stable, no look at whether a future
//! has moved to another thread, no polls inside polls, no stall, no watchdog to wake, no schedule delay, no count of what is in flight, no
//! answer without a body, no share in a monitor that ends.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::extract::MatchedPath;
use bytes::Buf;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tower::{Layer, Service};

#[derive(Clone, Copy)]
pub struct LeastLayer;

#[derive(Clone)]
pub struct Least<S> {
    inner: S,
    route: &'static OnceLock<MatchedPath>,
}

/// A future whose polls are timed.
pub struct LeastFuture<F> {
    inner: F,
    record: Option<Box<Record>>,
}

/// A body whose polls are timed.
pub struct LeastBody<B> {
    inner: B,
    record: Option<Box<Record>>,
}

/// What is known of a request.
#[derive(Default)]
struct Record {
    start: u64,
    poll_start: u64,
    busy: u64,
    span: u64,
    to_come: u64,
    outcome: usize,
}

/// A histogram's first bucket: the ticks, and how many samples they are.
type Bucket = [AtomicU64; 2];

/// What a thread writes and others could read.
struct Cells {
    slot: [AtomicU64; 4],
    polls: [Bucket; 2],
    duration: Bucket,
    busy: Bucket,
    outcomes: [AtomicU64; 6],
}

thread_local! {
    static CELLS: Cells = const {
        Cells {
            slot: [const { AtomicU64::new(0) }; 4],
            polls: [const { [const { AtomicU64::new(0) }; 2] }; 2],
            duration: [const { AtomicU64::new(0) }; 2],
            busy: [const { AtomicU64::new(0) }; 2],
            outcomes: [const { AtomicU64::new(0) }; 6],
        }
    };
    static IDLE: Cell<Option<Box<Record>>> = const { Cell::new(None) };
}

/// Requests counted on this thread.
pub fn counted() -> u64 {
    CELLS.with(|cells| cells.outcomes.iter().map(|outcome| outcome.load(Ordering::Relaxed)).sum())
}

fn now() -> u64 {
    // SAFETY: an instruction that every x86_64 has, and that touches no memory.
    #[cfg(target_arch = "x86_64")]
    return unsafe { std::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    quanta::Clock::new().raw()
}

#[inline(always)]
fn add(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

#[inline(always)]
fn sample(bucket: &Bucket, ticks: u64) {
    add(&bucket[0], ticks);
    add(&bucket[1], 1);
}

impl Record {
    #[inline(always)]
    fn begin(&mut self, start: u64, mark: u64) {
        self.poll_start = start;
        CELLS.with(|cells| {
            for (stamp, value) in cells.slot.iter().zip([1, self.span, mark, start]) {
                stamp.store(value, Ordering::Release);
            }
        });
    }

    #[inline(always)]
    fn end(&mut self, phase: usize) {
        let ticks = now() - self.poll_start;
        self.busy += ticks;
        CELLS.with(|cells| {
            cells.slot[3].store(0, Ordering::Release);
            sample(&cells.polls[phase], ticks);
        });
    }
}

#[inline(always)]
fn over(record: Box<Record>) {
    CELLS.with(|cells| {
        sample(&cells.duration, now() - record.start);
        sample(&cells.busy, record.busy);
        add(&cells.outcomes[record.outcome], 1);
    });
    let _ = IDLE.try_with(|idle| idle.set(Some(record)));
}

impl<S> Layer<S> for LeastLayer {
    type Service = Least<S>;

    fn layer(&self, inner: S) -> Least<S> {
        Least { inner, route: Box::leak(Box::default()) }
    }
}

impl<S, B, R> Service<Request<B>> for Least<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Unpin,
    R: Body,
{
    type Response = Response<LeastBody<R>>;
    type Error = S::Error;
    type Future = LeastFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let span =
            tracing::dispatcher::get_default(|dispatch| dispatch.current_span().id().map_or(0, |id| id.into_u64()));
        if let Some(path) = request.extensions().get::<MatchedPath>() {
            let known = self.route.get_or_init(|| path.clone());
            assert!(std::ptr::eq(known.as_str(), path.as_str()), "another route");
        }
        let mut record = IDLE.try_with(Cell::take).ok().flatten().unwrap_or_default();
        record.start = now();
        record.span = span;
        record.busy = 0;
        record.begin(record.start, std::ptr::from_ref(&span).addr() as u64);
        let inner = self.inner.call(request);
        record.end(0);
        LeastFuture { inner, record: Some(record) }
    }
}

impl<F, R, E> Future for LeastFuture<F>
where
    F: Future<Output = Result<Response<R>, E>> + Unpin,
    R: Body,
{
    type Output = Result<Response<LeastBody<R>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(record) = &mut this.record else { return Poll::Pending };
        record.begin(now(), std::ptr::from_ref(cx).addr() as u64);
        let result = Pin::new(&mut this.inner).poll(&mut Context::from_waker(cx.waker()));
        record.end(0);
        if let Poll::Ready(Ok(response)) = &result {
            record.outcome = usize::from(response.status().as_u16() / 100).min(5);
            record.to_come = response.body().size_hint().exact().unwrap_or(u64::MAX);
        }
        result.map_ok(|response| response.map(|inner| LeastBody { inner, record: this.record.take() }))
    }
}

impl<B: Body + Unpin> Body for LeastBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        let Some(record) = &mut this.record else { return Pin::new(&mut this.inner).poll_frame(cx) };
        record.begin(now(), std::ptr::from_ref(cx).addr() as u64);
        let polled = Pin::new(&mut this.inner).poll_frame(&mut Context::from_waker(cx.waker()));
        record.end(1);
        let is_over = match &polled {
            Poll::Pending => false,
            Poll::Ready(Some(Ok(frame))) => {
                let sent = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                record.to_come = record.to_come.saturating_sub(sent);
                record.to_come == 0
            }
            Poll::Ready(_) => true,
        };
        if is_over {
            this.record.take().into_iter().for_each(over);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
