//! What the layer should say of a scenario, and what it said.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tower_stall::{Cause, Stall};

use super::clients::Answer;
use super::experiment::Outcome;
use super::handlers::marked;

/// Less than that is no delay of the blocking pool.
pub(crate) const DELAYED: Duration = Duration::from_millis(50);

/// What the layer should say.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    /// Nothing.
    Healthy,
    Stalls(Culprit),
    /// The same, and that timers and I/O of the whole runtime stood still.
    Starves(Culprit),
    /// The same, until another worker took them over.
    Rescued(Culprit),
    /// Stalls that never end; nobody has an answer.
    Deadlock(Culprit),
    /// No stall: the worker was given away.
    HandedOff,
    /// Some gave their worker away, others of this route found no thread to take it. A stack does not show which, so they may be told as
    /// stalls, or not.
    PartlyHandedOff(&'static str),
    /// No stall: work waits for a thread of the blocking pool.
    PoolIsFull,
    /// No stall: the handler panics, and the client has no answer.
    Panics,
}

/// Who is to be named.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Culprit {
    pub(crate) method: &'static str,
    pub(crate) route: &'static str,
    pub(crate) cause: Cause,
    /// Any of these; none where it is empty.
    pub(crate) syscalls: &'static [&'static str],
    /// What its line is marked with.
    pub(crate) mark: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    Right,
    Wrong(String),
    /// The machine kept threads from their cores, and the layer says so: there is nothing to judge.
    Disturbed,
}

/// What was told, stalls of one culprit together.
pub(crate) struct Told<'a>(pub(crate) &'a Outcome);

// === impl Verdict ===

impl Verdict {
    pub(crate) fn judge(&self, outcome: &Outcome) -> Judgement {
        let culprit = self.culprit();
        let is_culprit = |stall: &Stall| culprit.is_some_and(|culprit| culprit.is(stall));
        let is_allowed = |stall: &Stall| match self {
            Self::PartlyHandedOff(route) => stall.route() == *route,
            _ => is_culprit(stall),
        };
        let (told, others): (Vec<_>, Vec<_>) = outcome.stalls.iter().partition(|stall| is_allowed(stall));
        let (disturbed, wrong): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|stall| is_disturbed(stall, outcome.nap));
        if let Some(wrong) = wrong.first() {
            return Judgement::Wrong(format!("{self:?} is not what is told:\n{wrong}"));
        }
        let missed = culprit.is_some() && told.is_empty();
        match self.missing(outcome) {
            None if !missed => Judgement::Right,
            _ if !disturbed.is_empty() => Judgement::Disturbed,
            missing => Judgement::Wrong(missing.unwrap_or("there is no stall").into()),
        }
    }

    fn culprit(&self) -> Option<&Culprit> {
        match self {
            Self::Stalls(culprit) | Self::Starves(culprit) | Self::Rescued(culprit) | Self::Deadlock(culprit) => {
                Some(culprit)
            }
            _ => None,
        }
    }

    /// What should be told of besides the stalls, and is not.
    fn missing(&self, outcome: &Outcome) -> Option<&'static str> {
        let all = |answer| outcome.answers.iter().all(|seen| *seen == answer);
        let (is_there, what) = match self {
            Self::Healthy | Self::Stalls(_) => (true, ""),
            Self::Starves(_) => (outcome.stalls.iter().any(Stall::is_io_starved), "starvation is not told of"),
            Self::Rescued(_) => (outcome.rescues > 0, "no rescue is told of"),
            Self::Deadlock(_) => (all(Answer::Never), "there were answers"),
            Self::HandedOff | Self::PartlyHandedOff(_) => (outcome.handed_off > 0, "no poll was handed off"),
            Self::PoolIsFull => (outcome.pool_delay >= DELAYED, "the pool has no delay"),
            Self::Panics => (all(Answer::Failed), "there were answers"),
        };
        (!is_there).then_some(what)
    }
}

// === impl Culprit ===

impl Culprit {
    fn is(&self, stall: &Stall) -> bool {
        let syscall = match stall.syscall() {
            Some(call) => self.syscalls.contains(&call),
            None => self.syscalls.is_empty(),
        };
        let names = (stall.method(), stall.route(), stall.cause()) == (self.method, self.route, self.cause);
        names && syscall && self.has_line(stall)
    }

    /// Who sleeps is at the line itself, who runs is somewhere inside the call there.
    fn has_line(&self, stall: &Stall) -> bool {
        let mut lines =
            stall.frames().iter().filter(|frame| frame.is_application()).filter_map(|frame| frame.location());
        let is_marked = |location: &tower_stall::Location| {
            location.file().ends_with("lab/handlers.rs") && Some(location.line()) == marked(self.mark)
        };
        if self.cause == Cause::Cpu { lines.any(is_marked) } else { stall.location().is_some_and(is_marked) }
    }
}

/// Whether the machine is to blame, or has kept the layer from seeing why or where, or has kept somebody from a core for a moment.
/// A false alarm about slow work would last as long as that.
fn is_disturbed(stall: &Stall, nap: Duration) -> bool {
    match stall.cause() {
        Cause::Preempted | Cause::Paused | Cause::Unknown => true,
        _ if stall.frames().is_empty() || waits_for_the_pool(stall) => true,
        _ => stall.duration() < nap.mul_f64(0.9) && !stall.is_in_progress(),
    }
}

/// tokio starts threads of the blocking pool while it has the pool's lock, which an overloaded machine may draw out.
fn waits_for_the_pool(stall: &Stall) -> bool {
    stall.frames().iter().any(|frame| frame.function().contains("blocking::pool::Spawner::spawn"))
}

// === impl Told ===

impl Told<'_> {
    fn lines(&self) -> Vec<String> {
        let outcome = self.0;
        let mut culprits = BTreeMap::<String, Vec<&Stall>>::new();
        for stall in &outcome.stalls {
            culprits.entry(culprit(stall)).or_default().push(stall);
        }
        let stalls = culprits.into_iter().map(|(culprit, stalls)| format!("{culprit}: {}", together(&stalls)));
        let more = [
            (outcome.handed_off > 0).then(|| count(outcome.handed_off, "poll handed off", "polls handed off")),
            (outcome.pool_delay >= DELAYED)
                .then(|| format!("blocking-pool delay {:.2} s", outcome.pool_delay.as_secs_f64())),
            (outcome.rescues > 0).then(|| count(outcome.rescues, "rescue", "rescues")),
        ];
        stalls.chain(more.into_iter().flatten()).collect()
    }
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines();
        f.write_str(if lines.is_empty() { "nothing".into() } else { lines.join("; ") }.as_str())
    }
}

fn culprit(stall: &Stall) -> String {
    let mut text = format!("{} {} {}", stall.method(), stall.route(), stall.cause().as_str());
    if let Some(call) = stall.syscall() {
        text += &format!(" in {call}");
    }
    if let Some(detail) = stall.detail() {
        text += &format!(" ({detail})");
    }
    if let Some(location) = stall.location() {
        let file = location.file().rsplit('/').next().unwrap_or_default();
        text += &format!(" at {file}:{}", location.line());
    }
    if stall.is_in_progress() {
        text += ", still going on";
    }
    text
}

/// What stalls of one culprit have cost.
fn together(stalls: &[&Stall]) -> String {
    let stolen: Duration = stalls.iter().map(|stall| stall.duration()).sum();
    let starved = stalls.iter().filter(|stall| stall.is_io_starved()).count() as u64;
    let mut text = format!("{}, {:.2} s stolen", count(stalls.len() as u64, "stall", "stalls"), stolen.as_secs_f64());
    if starved > 0 {
        text += &format!(", all I/O stood still in {starved}");
    }
    text
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
