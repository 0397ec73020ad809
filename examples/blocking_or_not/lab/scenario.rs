//! One scenario: what is asked for, on which runtimes, and what the layer should say.

use super::service::Flavor;
use super::verdict::Verdict;

#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) number: &'static str,
    pub(crate) what: &'static str,
    pub(crate) path: &'static str,
    /// What the first client asks for, if that is something else. It takes a lock, and the others come when it has it.
    pub(crate) first: Option<&'static str>,
    pub(crate) verdict: Verdict,
    /// Where it is run, each time with so many clients at once.
    pub(crate) runs: &'static [(Flavor, &'static [usize])],
    /// Whether the clients' connections have served a request before.
    pub(crate) kept_alive: bool,
    pub(crate) rescue: bool,
    pub(crate) blocking_threads: usize,
    /// How often the clients come.
    pub(crate) rounds: usize,
}

impl Scenario {
    pub(crate) const fn new(number: &'static str, what: &'static str, path: &'static str, verdict: Verdict) -> Self {
        Self {
            number,
            what,
            path,
            verdict,
            first: None,
            runs: &[],
            kept_alive: false,
            rescue: true,
            blocking_threads: 512,
            rounds: 1,
        }
    }

    pub(crate) const fn on(self, runs: &'static [(Flavor, &'static [usize])]) -> Self {
        Self { runs, ..self }
    }

    pub(crate) const fn after(self, first: &'static str) -> Self {
        Self { first: Some(first), ..self }
    }

    /// Over connections that are kept alive, so often in turn.
    pub(crate) const fn kept_alive(self, rounds: usize) -> Self {
        Self { kept_alive: true, rounds, ..self }
    }

    pub(crate) const fn without_rescue(self) -> Self {
        Self { rescue: false, ..self }
    }

    pub(crate) const fn blocking_threads(self, blocking_threads: usize) -> Self {
        Self { blocking_threads, ..self }
    }

    /// Whether it has this number, or is one of those that have it: `3` and `3b` are both of `3b`.
    pub(crate) fn is_numbered(&self, number: &str) -> bool {
        self.number == number || self.number.trim_end_matches(char::is_alphabetic) == number
    }

    /// How many clients show most on a runtime, which may be another than those of `runs`; none where the verdict would be another one.
    pub(crate) fn clients_on(&self, flavor: Flavor) -> Vec<usize> {
        let (workers, is_current_thread) = (flavor.workers(), flavor == Flavor::CurrentThread);
        match self.verdict {
            Verdict::Panics if !is_current_thread => vec![],
            Verdict::HandedOff | Verdict::PartlyHandedOff(_) if is_current_thread => vec![],
            Verdict::Starves(_) | Verdict::Rescued(_) if workers < 2 => vec![],
            Verdict::Starves(_) | Verdict::Rescued(_) => vec![1],
            Verdict::Deadlock(_) => vec![workers + 1],
            _ if self.first.is_some() => (2..=workers).collect(),
            _ if self.number == "8" => vec![workers, workers + 1],
            _ => vec![2, 4, 5, 8],
        }
    }
}
