//! The smallest layer that records the same data about a request as tower-stall: its route, its
//! span, three timed polls with the stamps for a watchdog, busy time, request duration and outcome.
//!
//! It leaves out everything that makes these correct in every case: a fallback for an unstable TSC,
//! futures that move to another thread, nested polls, stalls, waking a watchdog, schedule latency,
//! requests in flight, responses without a body, and a monitor that can be shut down.

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
use tracing::dispatcher;

#[derive(Clone, Copy)]
pub struct MinimalLayer;

#[derive(Clone)]
pub struct MinimalService<S> {
    inner: S,
    route: &'static OnceLock<MatchedPath>,
}

/// A future with timed polls.
pub struct MinimalFuture<F> {
    inner: F,
    record: Option<Box<RequestRecord>>,
}

/// A body with timed polls.
pub struct MinimalBody<B> {
    inner: B,
    record: Option<Box<RequestRecord>>,
}

/// The state of a request.
#[derive(Default)]
struct RequestRecord {
    start: u64,
    poll_start: u64,
    busy: u64,
    span: u64,
    bytes_remaining: u64,
    outcome: usize,
}

/// The first bucket of a histogram: the sum of its samples in ticks, and their number.
type Bucket = [AtomicU64; 2];

/// The data that a thread writes and that others could read.
struct Shard {
    current_poll: [AtomicU64; 4],
    polls: [Bucket; 2],
    duration: Bucket,
    busy: Bucket,
    outcomes: [AtomicU64; 6],
}

thread_local! {
    static SHARD: Shard = const {
        Shard {
            current_poll: [const { AtomicU64::new(0) }; 4],
            polls: [const { [const { AtomicU64::new(0) }; 2] }; 2],
            duration: [const { AtomicU64::new(0) }; 2],
            busy: [const { AtomicU64::new(0) }; 2],
            outcomes: [const { AtomicU64::new(0) }; 6],
        }
    };
    static FREE_RECORD: Cell<Option<Box<RequestRecord>>> = const { Cell::new(None) };
}

/// Returns the requests counted on this thread.
pub fn recorded_requests() -> u64 {
    SHARD.with(|shard| shard.outcomes.iter().map(|count| count.load(Ordering::Relaxed)).sum())
}

fn now() -> u64 {
    // SAFETY: Every x86_64 processor has this instruction, and it does not access memory.
    #[cfg(target_arch = "x86_64")]
    return unsafe { std::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    quanta::Clock::new().raw()
}

#[inline(always)]
fn add(counter: &AtomicU64, value: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
}

#[inline(always)]
fn record_sample(bucket: &Bucket, ticks: u64) {
    add(&bucket[0], ticks);
    add(&bucket[1], 1);
}

impl RequestRecord {
    #[inline(always)]
    fn begin_poll(&mut self, start: u64, stack_mark: u64) {
        self.poll_start = start;
        SHARD.with(|shard| {
            for (field, value) in shard.current_poll.iter().zip([1, self.span, stack_mark, start]) {
                field.store(value, Ordering::Release);
            }
        });
    }

    #[inline(always)]
    fn end_poll(&mut self, phase: usize) {
        let ticks = now() - self.poll_start;
        self.busy += ticks;
        SHARD.with(|shard| {
            shard.current_poll[3].store(0, Ordering::Release);
            record_sample(&shard.polls[phase], ticks);
        });
    }
}

#[inline(always)]
fn finish(record: Box<RequestRecord>) {
    SHARD.with(|shard| {
        record_sample(&shard.duration, now() - record.start);
        record_sample(&shard.busy, record.busy);
        add(&shard.outcomes[record.outcome], 1);
    });
    let _ = FREE_RECORD.try_with(|free| free.set(Some(record)));
}

impl<S> Layer<S> for MinimalLayer {
    type Service = MinimalService<S>;

    fn layer(&self, inner: S) -> MinimalService<S> {
        MinimalService { inner, route: Box::leak(Box::default()) }
    }
}

impl<S, B, R> Service<Request<B>> for MinimalService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Unpin,
    R: Body,
{
    type Response = Response<MinimalBody<R>>;
    type Error = S::Error;
    type Future = MinimalFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let span = dispatcher::get_default(|dispatch| {
            dispatch.current_span().id().map_or(0, |id| id.into_u64())
        });
        if let Some(path) = request.extensions().get::<MatchedPath>() {
            let known = self.route.get_or_init(|| path.clone());
            assert!(std::ptr::eq(known.as_str(), path.as_str()), "the service has one route");
        }
        let mut record = FREE_RECORD.try_with(Cell::take).ok().flatten().unwrap_or_default();
        record.start = now();
        record.span = span;
        record.busy = 0;
        record.begin_poll(record.start, std::ptr::from_ref(&span).addr() as u64);
        let inner = self.inner.call(request);
        record.end_poll(0);
        MinimalFuture { inner, record: Some(record) }
    }
}

impl<F, R, E> Future for MinimalFuture<F>
where
    F: Future<Output = Result<Response<R>, E>> + Unpin,
    R: Body,
{
    type Output = Result<Response<MinimalBody<R>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(record) = &mut this.record else { return Poll::Pending };
        record.begin_poll(now(), std::ptr::from_ref(cx).addr() as u64);
        let result = Pin::new(&mut this.inner).poll(&mut Context::from_waker(cx.waker()));
        record.end_poll(0);
        if let Poll::Ready(Ok(response)) = &result {
            record.outcome = usize::from(response.status().as_u16() / 100).min(5);
            record.bytes_remaining = response.body().size_hint().exact().unwrap_or(u64::MAX);
        }
        result.map_ok(|response| {
            response.map(|inner| MinimalBody { inner, record: this.record.take() })
        })
    }
}

impl<B: Body + Unpin> Body for MinimalBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        let Some(record) = &mut this.record else {
            return Pin::new(&mut this.inner).poll_frame(cx);
        };
        record.begin_poll(now(), std::ptr::from_ref(cx).addr() as u64);
        let polled = Pin::new(&mut this.inner).poll_frame(&mut Context::from_waker(cx.waker()));
        record.end_poll(1);
        let is_complete = match &polled {
            Poll::Pending => false,
            Poll::Ready(Some(Ok(frame))) => {
                let sent = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                record.bytes_remaining = record.bytes_remaining.saturating_sub(sent);
                record.bytes_remaining == 0
            }
            Poll::Ready(_) => true,
        };
        if is_complete {
            this.record.take().into_iter().for_each(finish);
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
