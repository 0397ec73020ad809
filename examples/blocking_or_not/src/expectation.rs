//! What the layer should report about a scenario, and whether it does.

use std::time::Duration;

use tower_stall::{Cause, Location, Stall};

use super::clients::ClientOutcome;
use super::experiment::Outcome;
use super::handlers::marked_line;

/// The delay at which the blocking pool counts as full.
pub(crate) const POOL_DELAY: Duration = Duration::from_millis(50);

/// What the layer should report.
#[derive(Clone, Copy, Debug)]
pub enum Expectation {
    /// No stall.
    NoStall,
    /// Stalls.
    Stalls(ExpectedStall),
    /// Stalls that starve the runtime's I/O driver.
    Starves(ExpectedStall),
    /// Stalls that starve the runtime's I/O driver until the watchdog wakes another worker.
    Rescued(ExpectedStall),
    /// Stalls that never end, and no responses.
    Deadlock(ExpectedStall),
    /// No stall, because the polls hand off their worker.
    HandedOff,
    /// Some polls of the route hand off their worker, others find no thread to take it over. A
    /// stack does not show which, so either may be reported as a stall.
    PartlyHandedOff(&'static str),
    /// No stall, but work waits for a thread of the blocking pool.
    FullPool,
    /// No stall, because the handler panics. The clients get no response.
    Panics,
}

/// The stall that a report should describe.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedStall {
    /// The method, or `TASK`.
    pub method: &'static str,
    /// The route, or the name of a task.
    pub route: &'static str,
    /// The cause.
    pub cause: Cause,
    /// The system calls that may be reported; none if empty.
    pub syscalls: &'static [&'static str],
    /// The mark on the line that should be reported.
    pub mark: &'static str,
}

/// Whether the layer reports what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    AsExpected,
    /// It does not, with the difference.
    Unexpected(String),
    /// It reports that the host delayed threads, so the experiment shows nothing.
    Disturbed,
}

// === impl Expectation ===

impl Expectation {
    /// Compares an outcome with the expectation.
    pub fn check(&self, outcome: &Outcome) -> Verdict {
        let expected = self.stall();
        let is_allowed = |stall: &Stall| match self {
            Self::PartlyHandedOff(route) => stall.route() == *route,
            _ => expected.is_some_and(|expected| expected.matches(stall)),
        };
        let (allowed, others): (Vec<_>, Vec<_>) =
            outcome.stalls.iter().partition(|stall| is_allowed(stall));
        let (disturbed, unexpected): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|stall| is_disturbed(stall, outcome.sleep));
        if let Some(stall) = unexpected.first() {
            return Verdict::Unexpected(format!(
                "expected {self:?}, but this was reported:\n{stall}"
            ));
        }
        let has_no_stall = expected.is_some() && allowed.is_empty();
        match self.missing(outcome) {
            None if !has_no_stall => Verdict::AsExpected,
            _ if !disturbed.is_empty() => Verdict::Disturbed,
            missing => Verdict::Unexpected(missing.unwrap_or("no stall was reported").into()),
        }
    }

    fn stall(&self) -> Option<&ExpectedStall> {
        match self {
            Self::Stalls(stall)
            | Self::Starves(stall)
            | Self::Rescued(stall)
            | Self::Deadlock(stall) => Some(stall),
            _ => None,
        }
    }

    /// Returns what should be observed besides the stalls, and is not.
    fn missing(&self, outcome: &Outcome) -> Option<&'static str> {
        let all = |expected| outcome.responses.iter().all(|response| *response == expected);
        let starves = || outcome.stalls.iter().any(Stall::is_io_starved);
        let (is_observed, missing) = match self {
            Self::NoStall | Self::Stalls(_) => (true, ""),
            Self::Starves(_) => (starves(), "no starvation was reported"),
            Self::Rescued(_) => (outcome.rescues > 0, "no rescue was reported"),
            Self::Deadlock(_) => (all(ClientOutcome::Never), "there were responses"),
            Self::HandedOff | Self::PartlyHandedOff(_) => {
                (outcome.handed_off > 0, "no poll was handed off")
            }
            Self::FullPool => (outcome.pool_delay >= POOL_DELAY, "the blocking pool had no delay"),
            Self::Panics => (all(ClientOutcome::Failed), "there were responses"),
        };
        (!is_observed).then_some(missing)
    }
}

// === impl ExpectedStall ===

impl ExpectedStall {
    fn matches(&self, stall: &Stall) -> bool {
        let syscall = match stall.syscall() {
            Some(syscall) => self.syscalls.contains(&syscall),
            None => self.syscalls.is_empty(),
        };
        stall.method() == self.method
            && stall.route() == self.route
            && stall.cause() == self.cause
            && syscall
            && self.has_line(stall)
    }

    /// A blocked thread must be at the marked line itself, a running one anywhere below it.
    fn has_line(&self, stall: &Stall) -> bool {
        let line = marked_line(self.mark);
        let is_marked = |location: &Location| {
            location.file().ends_with("src/handlers.rs") && Some(location.line()) == line
        };
        let mut frames = stall.frames().iter().filter(|frame| frame.is_application());
        match self.cause {
            Cause::Cpu => frames.any(|frame| frame.location().is_some_and(is_marked)),
            _ => stall.location().is_some_and(is_marked),
        }
    }
}

/// Returns whether the host caused a stall, or kept the layer from finding its cause or line, or
/// delayed a thread for a moment. A false alarm about slow work would last as long as that work.
fn is_disturbed(stall: &Stall, sleep: Duration) -> bool {
    match stall.cause() {
        Cause::Preempted | Cause::Paused | Cause::Unknown => true,
        _ if stall.frames().is_empty() || spawns_pool_thread(stall) => true,
        _ => stall.duration() < sleep.mul_f64(0.9) && !stall.is_in_progress(),
    }
}

/// Returns whether a thread was spawning, or waiting for, a thread of the blocking pool. tokio
/// spawns them while it holds the pool's lock, which may take long on an overloaded host.
fn spawns_pool_thread(stall: &Stall) -> bool {
    let is_spawn = |function: &str| function.contains("blocking::pool::Spawner::spawn");
    stall.frames().iter().any(|frame| is_spawn(frame.function()))
}
