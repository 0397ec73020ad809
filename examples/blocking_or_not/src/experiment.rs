//! Running a scenario on one runtime with a number of clients.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, JoinSet};
use tokio::time;
use tower_stall::Stall;

use super::BoxError;
use super::clients::{BystanderDelays, Bystanders, ClientOutcome, Connection, get_once};
use super::expectation::{Expectation, POOL_DELAY, Verdict};
use super::scenario::Scenario;
use super::scrape::Scrape;
use super::service::{Flavor, Service, Setup};

/// A scenario on one runtime, with a number of clients.
#[derive(Clone, Copy, Debug)]
pub struct Experiment {
    /// The scenario.
    pub scenario: &'static Scenario,
    /// The runtime of the service.
    pub flavor: Flavor,
    /// The number of clients.
    pub clients: usize,
}

/// The outcome of an experiment.
#[derive(Debug)]
pub struct Outcome {
    /// How long slow work took.
    pub sleep: Duration,
    /// The outcomes of the clients' requests, sorted within each round.
    pub responses: Vec<ClientOutcome>,
    /// The delays of the bystanders.
    pub bystanders: BystanderDelays,
    /// The reported stalls.
    pub stalls: Vec<Stall>,
    /// The number of polls that handed off their worker.
    pub handed_off: u64,
    /// The sum of the measured delays of the blocking pool.
    pub pool_delay: Duration,
    /// The number of rescues.
    pub rescues: u64,
}

/// Metrics of events that are not stalls.
struct Counts {
    handed_off: f64,
    pool_delay: f64,
    rescues: f64,
}

// === impl Experiment ===

impl Experiment {
    /// Returns the experiments of a scenario, on its own runtimes or on a given one.
    pub fn all_of(scenario: &'static Scenario, flavor: Option<Flavor>) -> Vec<Self> {
        let runs: Vec<(Flavor, Vec<usize>)> = match flavor {
            Some(flavor) => vec![(flavor, scenario.clients_on(flavor))],
            None => {
                scenario.runs.iter().map(|(flavor, clients)| (*flavor, clients.to_vec())).collect()
            }
        };
        let on = |(flavor, clients): (_, Vec<_>)| {
            clients.into_iter().map(move |clients| Self { scenario, flavor, clients })
        };
        runs.into_iter().flat_map(on).collect()
    }

    /// Runs the experiment, again and again while the host disturbs it, at most 40 times. Must be
    /// called on the clients' runtime; the service has its own. `rescue` overrides the scenario.
    ///
    /// # Errors
    ///
    /// Fails if the service or a client cannot be started.
    pub async fn run(
        &self,
        sleep: Duration,
        rescue: Option<bool>,
    ) -> Result<(Outcome, Verdict), BoxError> {
        const ATTEMPTS: usize = 40;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let outcome = self.run_once(sleep, rescue).await?;
            let verdict = self.scenario.expectation.check(&outcome);
            if verdict != Verdict::Disturbed || attempts == ATTEMPTS {
                return Ok((outcome, verdict));
            }
        }
    }

    async fn run_once(&self, sleep: Duration, rescue: Option<bool>) -> Result<Outcome, BoxError> {
        let setup = Setup {
            flavor: self.flavor,
            sleep,
            rescue: rescue.unwrap_or(self.scenario.rescue),
            blocking_threads: self.scenario.blocking_threads,
        };
        let service = Service::start(setup, (Ipv4Addr::LOCALHOST, 0).into())?;
        let before = self.counts(&service, &service.scrape().await?);
        let mut outcome = self.round(&service, sleep).await?;
        for _ in 1..self.scenario.rounds {
            outcome.add(self.round(&service, sleep).await?);
        }
        if !matches!(self.scenario.expectation, Expectation::Deadlock(_)) {
            let mut metrics = service.flush().await?;
            let start = Instant::now();
            let timeout = Duration::from_secs(12);
            while self.needs_probe(&service, &metrics) && start.elapsed() < timeout {
                self.round(&service, sleep).await?;
                metrics = service.flush().await?;
            }
            let metrics = service.end_monitor().await?;
            outcome.set_counts(&before, &self.counts(&service, &metrics));
        }
        outcome.stalls = service.stalls();
        Ok(outcome)
    }

    /// Sends the requests of all clients once, at the same time.
    async fn round(&self, service: &Service, sleep: Duration) -> Result<Outcome, BoxError> {
        let timeout = match self.scenario.expectation {
            Expectation::Deadlock(_) => sleep * 4,
            _ => Duration::from_secs(60),
        };
        let connections = self.connections(service).await?;
        let bystanders = Bystanders::start(service.address).await?;
        let mut responses = self.send(service, connections, timeout).await?;
        while service.app.has_jobs() {
            time::sleep(Duration::from_millis(1)).await;
        }
        responses.sort_unstable();
        Ok(Outcome { bystanders: bystanders.stop().await?, ..Outcome::new(sleep, responses) })
    }

    /// Opens the clients' connections, if the scenario wants connections that are already in use.
    async fn connections(&self, service: &Service) -> Result<Vec<Connection>, BoxError> {
        let mut connections = Vec::new();
        while self.scenario.kept_alive && connections.len() < self.clients {
            connections.push(Connection::open_used(service.address).await?);
        }
        Ok(connections)
    }

    async fn send(
        &self,
        service: &Service,
        mut connections: Vec<Connection>,
        timeout: Duration,
    ) -> Result<Vec<ClientOutcome>, BoxError> {
        let Scenario { path, first, .. } = *self.scenario;
        let start = Instant::now();
        let holder = match first {
            Some(first) => Some(take_lock(service, first, start, timeout).await),
            None => None,
        };
        let mut clients = JoinSet::new();
        for _ in usize::from(holder.is_some())..self.clients {
            match connections.pop() {
                Some(mut connection) => {
                    let response = async move { connection.get(path).await };
                    clients.spawn(ClientOutcome::of(response, start, timeout))
                }
                None => {
                    let response = get_once(service.address, path);
                    clients.spawn(ClientOutcome::of(response, start, timeout))
                }
            };
        }
        let mut responses = clients.join_all().await;
        if let Some(holder) = holder {
            responses.push(holder.await?);
        }
        Ok(responses)
    }

    /// Returns whether the delay of the blocking pool, which is probed only now and then, is still
    /// to be measured.
    fn needs_probe(&self, service: &Service, metrics: &Scrape) -> bool {
        matches!(self.scenario.expectation, Expectation::FullPool)
            && self.counts(service, metrics).pool_delay < POOL_DELAY.as_secs_f64()
    }

    fn counts(&self, service: &Service, metrics: &Scrape) -> Counts {
        let route = [("route", self.scenario.path)];
        let runtime = [("runtime", &*service.name)];
        Counts {
            handed_off: metrics.sum("tower_stall_handed_off_polls_total", &route),
            pool_delay: metrics.sum("tower_stall_blocking_pool_delay_seconds_sum", &runtime),
            rescues: metrics.sum("tower_stall_rescues_total", &runtime),
        }
    }
}

/// Sends a request, and returns once its handler holds the lock.
async fn take_lock(
    service: &Service,
    path: &'static str,
    start: Instant,
    timeout: Duration,
) -> JoinHandle<ClientOutcome> {
    let holder = tokio::spawn(ClientOutcome::of(get_once(service.address, path), start, timeout));
    while !service.app.is_ledger_locked() && !holder.is_finished() {
        time::sleep(Duration::from_millis(1)).await;
    }
    holder
}

// === impl Outcome ===

impl Outcome {
    fn new(sleep: Duration, responses: Vec<ClientOutcome>) -> Self {
        Self {
            sleep,
            responses,
            bystanders: BystanderDelays::default(),
            stalls: Vec::new(),
            handed_off: 0,
            pool_delay: Duration::ZERO,
            rescues: 0,
        }
    }

    fn add(&mut self, round: Self) {
        self.responses.extend(round.responses);
        self.bystanders.fresh = self.bystanders.fresh.and(round.bystanders.fresh);
        self.bystanders.kept_alive = self.bystanders.kept_alive.and(round.bystanders.kept_alive);
    }

    fn set_counts(&mut self, before: &Counts, after: &Counts) {
        self.handed_off = (after.handed_off - before.handed_off) as u64;
        self.pool_delay = Duration::from_secs_f64((after.pool_delay - before.pool_delay).max(0.0));
        self.rescues = (after.rescues - before.rescues) as u64;
    }
}
