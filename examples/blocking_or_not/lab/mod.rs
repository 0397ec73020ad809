//! The experiments: a service with a route for each, its clients, and what the layer should say. Shared with the tests.

mod backends;
mod catalogue;
mod clients;
mod experiment;
mod handlers;
mod scenario;
mod scrape;
mod service;
mod verdict;

pub(crate) use self::catalogue::SCENARIOS;
pub(crate) use self::clients::{Answer, Victims};
pub(crate) use self::experiment::{Experiment, Outcome};
pub(crate) use self::handlers::bare;
pub(crate) use self::scenario::Scenario;
pub(crate) use self::service::{Flavor, Service, Setup, metrics, serve};
#[allow(unused_imports, reason = "the tests put wrong ones to the proof")]
pub(crate) use self::verdict::{Culprit, Verdict};
pub(crate) use self::verdict::{Judgement, Told};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
