//! The only file that knows `tracing`: the spans of requests, and the events that are reports.

use tracing::dispatcher::{self, Dispatch};
use tracing::span::Id;
use tracing::{Level, Span};

use crate::stall::Stall;

/// The span of a request whose poll has stalled.
#[derive(Debug)]
pub(crate) struct SpanRef(Span);

/// Where reports go: the subscriber of the thread that made the monitor, or else the process-wide one of the moment.
#[derive(Debug)]
pub(crate) struct Tracing(Option<Dispatch>);

/// The span a report stands in.
pub(crate) enum Parent {
    /// A span that is kept open for it.
    Kept(SpanRef),
    /// The number of a span that was open a moment ago, 0 for none.
    Number(u64),
}

// === impl SpanRef ===

impl SpanRef {
    /// The number of the current span, 0 without one.
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
}

// === impl Tracing ===

impl Tracing {
    /// Reports go to the current subscriber.
    pub(crate) fn current() -> Self {
        let dispatch = dispatcher::get_default(Clone::clone);
        let is_set = !dispatch.is::<tracing::subscriber::NoSubscriber>();
        Self(is_set.then_some(dispatch))
    }

    /// Says that reports will have no stacks.
    pub(crate) fn no_stacks(&self, why: &str) {
        let say = || tracing::info!(target: "tower_stall", "reports will have no stacks: {why}");
        match &self.0 {
            Some(dispatch) => dispatcher::with_default(dispatch, say),
            None => say(),
        }
    }

    pub(crate) fn report(&self, stall: &Stall, parent: &Parent, suppressed: u64) {
        match &self.0 {
            Some(dispatch) => dispatcher::with_default(dispatch, || event(stall, parent, suppressed)),
            None => event(stall, parent, suppressed),
        }
    }
}

fn event(stall: &Stall, parent: &Parent, suppressed: u64) {
    match parent {
        // Entered, not only named as the parent: some formatters look at the current span alone.
        Parent::Kept(span) => span.0.in_scope(|| emit(stall, span.0.id(), suppressed)),
        Parent::Number(number) => {
            let id = std::num::NonZeroU64::new(*number).map(Id::from_non_zero_u64);
            emit(stall, id, suppressed);
        }
    }
}

fn emit(stall: &Stall, parent: Option<Id>, suppressed: u64) {
    let millis = |duration: std::time::Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
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
        threshold_ms = millis(stall.threshold),
        cause = stall.cause.as_str(),
        syscall = stall.syscall,
        detail = stall.detail.as_deref(),
        worker = stall.worker,
        held_up = stall.held_up,
        io_starved = stall.io_starved,
        rescued = stall.rescued,
        location = stall.location().map(tracing::field::display),
        in_progress = stall.in_progress,
        suppressed,
        stack,
        missing = stall.missing(),
        "{}", headline(stall)
    );
}

/// What the stall means for the reader of a log.
fn headline(stall: &Stall) -> String {
    let mut began =
        String::from(if stall.in_progress { "a poll is holding its thread" } else { "a poll held its thread" });
    if let Some(syscall) = stall.syscall {
        began += &format!(", waiting in `{syscall}`");
    }
    if let Some(location) = stall.location() {
        began += &format!(" at {location}");
    }
    let others = match stall.held_up {
        0 => "no other request was in flight".to_owned(),
        1 => "1 other request in flight was prevented from making progress on it".to_owned(),
        n => format!("{n} other requests in flight were prevented from making progress on it"),
    };
    let io = match (stall.io_starved, stall.rescued) {
        (true, true) => "; all timers and I/O stood still until another worker was woken",
        (true, false) => "; all timers and I/O stood still",
        (false, _) => "",
    };
    format!("{began}: {others}{io}")
}
