//! Experiments on blocking handlers: a service with one route per scenario, its clients, and what
//! tower-stall should report.

mod backends;
#[path = "../../common/burn.rs"]
mod burn;
mod clients;
mod expectation;
mod experiment;
mod handlers;
mod reported;
mod scenario;
mod scenarios;
#[path = "../../../tests/support/scrape.rs"]
mod scrape;
mod service;

pub use self::clients::{BystanderDelays, ClientOutcome, Delays};
pub use self::expectation::{Expectation, ExpectedStall, Verdict};
pub use self::experiment::{Experiment, Outcome};
pub use self::handlers::bare_routes;
pub use self::reported::Reported;
pub use self::scenario::Scenario;
pub use self::scenarios::SCENARIOS;
pub use self::service::{Flavor, Service, Setup, metrics_address, serve};

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
