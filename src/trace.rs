//! The only module that uses `tracing`: the spans of requests, and the events of reports.

use std::time::Duration;

use tracing::dispatcher::{self, Dispatch};
use tracing::span::Id;
use tracing::subscriber::NoSubscriber;
use tracing::{Level, Span};

use crate::stall::Stall;

/// The span of a request whose poll has stalled.
#[derive(Debug)]
pub(crate) struct SpanRef(Span);

/// Where events go: to the subscriber of the thread that spawned the monitor, or otherwise to the
/// process-wide one of the moment.
#[derive(Debug)]
pub(crate) struct Tracing(Option<Dispatch>);

/// The span that a report is recorded in.
#[derive(Debug)]
pub(crate) enum Parent {
    /// A span that is kept open for it.
    Open(SpanRef),
    /// The id of a span that was open a moment ago; 0 for none.
    Id(u64),
}

// === impl SpanRef ===

impl SpanRef {
    /// Returns the id of the current span; 0 without one.
    #[inline]
    pub(crate) fn current_id() -> u64 {
        dispatcher::get_default(|dispatch| dispatch.current_span().id().map_or(0, Id::into_u64))
    }

    pub(crate) fn current() -> Self {
        Self(Span::current())
    }

    pub(crate) fn none() -> Self {
        Self(Span::none())
    }

    /// Returns whether there is a span, which is closed with its last reference.
    pub(crate) fn is_some(&self) -> bool {
        self.0.id().is_some()
    }
}

// === impl Parent ===

impl Parent {
    pub(crate) const NONE: Self = Self::Id(0);

    /// Returns the span that is kept open.
    pub(crate) fn into_span(self) -> Option<SpanRef> {
        match self {
            Self::Open(span) => Some(span),
            Self::Id(_) => None,
        }
    }

    /// Takes the span that is kept open out: the report will be recorded in none.
    pub(crate) fn take_span(&mut self) -> Option<SpanRef> {
        match self {
            Self::Open(_) => std::mem::replace(self, Self::NONE).into_span(),
            Self::Id(_) => None,
        }
    }
}

// === impl Tracing ===

impl Tracing {
    /// Sends events to the current subscriber.
    pub(crate) fn current() -> Self {
        let dispatch = dispatcher::get_default(Clone::clone);
        let is_set = !dispatch.is::<NoSubscriber>();
        Self(is_set.then_some(dispatch))
    }

    /// Logs that reports will have no stacks.
    pub(crate) fn stacks_missing(&self, reason: &str) {
        self.with_subscriber(|| {
            tracing::info!(target: "tower_stall", "{reason}; reports will have no line of code");
        });
    }

    /// Logs that routes of another axum are not recognized.
    pub(crate) fn other_axum(&self) {
        self.with_subscriber(|| {
            tracing::warn!(
                target: "tower_stall",
                "a layer wraps routes of another version or copy of axum, whose matched paths are \
                 not recognized: their requests are `unmatched`; use axum 0.8 from crates.io, or \
                 set `route_label` and read the `MatchedPath` from `RouteRequest::extensions`"
            );
        });
    }

    /// Logs what the threads of the blocking pool do while none of them is free.
    pub(crate) fn blocking_pool(
        &self,
        runtime: &str,
        waiting: Duration,
        threads: usize,
        stacks: &str,
    ) {
        self.with_subscriber(|| {
            tracing::warn!(
                target: "tower_stall",
                runtime,
                waiting_ms = millis(waiting),
                threads,
                stacks,
                "no thread of the blocking pool of runtime {runtime} has been free for {:.1} s: \
                 what `spawn_blocking` was given waits, and so does a `block_in_place`; {threads} \
                 threads of it do:\n{stacks}",
                waiting.as_secs_f64(),
            );
        });
    }

    /// Logs that the runtime has no I/O driver.
    pub(crate) fn no_io_driver(&self) {
        self.with_subscriber(|| {
            tracing::info!(
                target: "tower_stall",
                "the runtime has no I/O driver: driver starvation is not detected; build the \
                 runtime with `enable_io()` or `enable_all()`"
            );
        });
    }

    /// Logs that no thread can be started.
    pub(crate) fn no_thread(&self) {
        self.with_subscriber(|| {
            tracing::warn!(
                target: "tower_stall",
                "the process cannot start a thread: `spawn_blocking` may panic, and the delay of \
                 the blocking pool is not measured meanwhile; raise the limit on processes and \
                 threads (`ulimit -u`, `pids.max`) or on memory"
            );
        });
    }

    pub(crate) fn report(&self, stall: &Stall, parent: &Parent, suppressed: u64) {
        self.with_subscriber(|| match parent {
            // Entered as well as named as the parent: some formatters use only the current span.
            Parent::Open(span) => span.0.in_scope(|| emit(stall, span.0.id(), suppressed)),
            Parent::Id(id) => {
                let id = std::num::NonZeroU64::new(*id).map(Id::from_non_zero_u64);
                emit(stall, id, suppressed);
            }
        });
    }

    fn with_subscriber(&self, emit: impl FnOnce()) {
        match &self.0 {
            Some(dispatch) => dispatcher::with_default(dispatch, emit),
            None => emit(),
        }
    }
}

fn emit(stall: &Stall, parent: Option<Id>, suppressed: u64) {
    let stack = (!stall.frames.is_empty()).then(|| {
        let frames: Vec<_> = stall.frames.iter().map(ToString::to_string).collect();
        frames.join("\n")
    });
    tracing::event!(
        target: "tower_stall",
        parent: parent,
        Level::WARN,
        method = stall.method,
        route = &*stall.route,
        phase = stall.phase.as_str(),
        duration_ms = millis(stall.duration),
        cpu_ms = millis(stall.split.cpu),
        off_cpu_ms = millis(stall.split.off_cpu),
        run_queue_ms = millis(stall.split.run_queue),
        stopped_ms = millis(stall.split.stopped),
        threshold_ms = millis(stall.threshold),
        cause = stall.cause.as_str(),
        syscall = stall.syscall,
        detail = stall.detail.as_deref(),
        worker = stall.worker,
        in_flight = stall.in_flight,
        delayed = stall.delayed.iter().map(|delayed| delayed.requests).sum::<u64>(),
        delay_caused_ms = millis(stall.delay_caused()),
        io_starved = stall.io_starved,
        rescued = stall.rescued,
        location = stall.location().map(tracing::field::display),
        in_progress = stall.in_progress,
        suppressed,
        stack,
        missing = stall.missing(),
        "{stall}"
    );
}

/// Returns milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
