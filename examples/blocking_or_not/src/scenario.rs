//! The description of a scenario.

use super::expectation::Expectation;
use super::service::Flavor;

/// A route with the runtimes on which it is requested, and what the layer should report.
#[derive(Debug)]
pub struct Scenario {
    /// A number with an optional letter, such as `3b`.
    pub number: &'static str,
    /// A short description.
    pub what: &'static str,
    /// The path that the clients request.
    pub path: &'static str,
    /// The path that the first client requests, if it differs. Its handler takes a lock, and the
    /// other clients follow once the lock is held.
    pub first: Option<&'static str>,
    /// What the layer should report.
    pub expectation: Expectation,
    /// The runtimes, each with the numbers of concurrent clients to try.
    pub runs: &'static [(Flavor, &'static [usize])],
    /// Whether the clients use connections that have already served a request.
    pub kept_alive: bool,
    /// Whether the watchdog may rescue the I/O driver.
    pub rescue: bool,
    /// The maximum number of threads in the blocking pool.
    pub blocking_threads: usize,
    /// How often the clients send their requests.
    pub rounds: usize,
}

impl Scenario {
    pub(crate) const fn new(
        number: &'static str,
        what: &'static str,
        path: &'static str,
        expectation: Expectation,
    ) -> Self {
        Self {
            number,
            what,
            path,
            expectation,
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

    pub(crate) const fn kept_alive(self, rounds: usize) -> Self {
        Self { kept_alive: true, rounds, ..self }
    }

    pub(crate) const fn without_rescue(self) -> Self {
        Self { rescue: false, ..self }
    }

    pub(crate) const fn blocking_threads(self, blocking_threads: usize) -> Self {
        Self { blocking_threads, ..self }
    }

    /// Returns whether a number selects this scenario: both `3` and `3b` select `3b`.
    pub fn matches(&self, number: &str) -> bool {
        self.number == number || self.number.trim_end_matches(char::is_alphabetic) == number
    }

    /// Returns the most instructive numbers of clients on a runtime, which need not be one of
    /// `runs`. Returns none if the expectation does not hold on that runtime.
    pub fn clients_on(&self, flavor: Flavor) -> Vec<usize> {
        let (workers, is_current_thread) = (flavor.workers(), flavor == Flavor::CurrentThread);
        match self.expectation {
            Expectation::Panics if !is_current_thread => vec![],
            Expectation::HandedOff | Expectation::PartlyHandedOff(_) if is_current_thread => vec![],
            Expectation::Starves(_) | Expectation::Rescued(_) if workers < 2 => vec![],
            Expectation::Starves(_) | Expectation::Rescued(_) => vec![1],
            Expectation::Deadlock(_) => vec![workers + 1],
            _ if self.first.is_some() => (2..=workers).collect(),
            _ if self.number == "8" => vec![workers, workers + 1],
            _ => vec![2, 4, 5, 8],
        }
    }
}
