//! A scenario on one runtime, with so many clients: how it is run, and what came of it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, JoinSet};
use tokio::time;
use tower_stall::Stall;

use super::Failure;
use super::clients::{Answer, Bystanders, Connection, Seen, ask_once};
use super::scenario::Scenario;
use super::scrape::Scrape;
use super::service::{Flavor, Service, Setup};
use super::verdict::{DELAYED, Judgement, Verdict};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Experiment {
    pub(crate) scenario: &'static Scenario,
    pub(crate) flavor: Flavor,
    pub(crate) clients: usize,
}

#[derive(Debug)]
pub(crate) struct Outcome {
    /// How long what was slow took.
    pub(crate) nap: Duration,
    /// In the order they came, each round by itself.
    pub(crate) answers: Vec<Answer>,
    pub(crate) bystanders: Seen,
    pub(crate) stalls: Vec<Stall>,
    pub(crate) handed_off: u64,
    /// How long the probes of the blocking pool have waited, together.
    pub(crate) pool_delay: Duration,
    pub(crate) rescues: u64,
}

/// The metrics that tell what no stall does.
struct Counts {
    handed_off: f64,
    pool_delay: f64,
    rescues: f64,
}

// === impl Experiment ===

impl Experiment {
    /// Those of a scenario, on another runtime if one is asked for.
    pub(crate) fn of(scenario: &'static Scenario, flavor: Option<Flavor>) -> Vec<Self> {
        let runs: Vec<(Flavor, Vec<usize>)> = match flavor {
            Some(flavor) => vec![(flavor, scenario.clients_on(flavor))],
            None => scenario.runs.iter().map(|(flavor, clients)| (*flavor, clients.to_vec())).collect(),
        };
        let on =
            |(flavor, clients): (_, Vec<_>)| clients.into_iter().map(move |clients| Self { scenario, flavor, clients });
        runs.into_iter().flat_map(on).collect()
    }

    /// Runs on the clients' runtime; the service has one of its own. Where the machine disturbs it, it is run again.
    pub(crate) async fn judged(&self, nap: Duration, rescue: Option<bool>) -> Result<(Outcome, Judgement), Failure> {
        const TRIES: usize = 40;
        let mut tries = 0;
        loop {
            tries += 1;
            let outcome = self.run(nap, rescue).await?;
            let judgement = self.scenario.verdict.judge(&outcome);
            if judgement != Judgement::Disturbed || tries == TRIES {
                return Ok((outcome, judgement));
            }
        }
    }

    async fn run(&self, nap: Duration, rescue: Option<bool>) -> Result<Outcome, Failure> {
        let setup = Setup {
            flavor: self.flavor,
            nap,
            rescue: rescue.unwrap_or(self.scenario.rescue),
            blocking_threads: self.scenario.blocking_threads,
        };
        let service = Service::start(setup, (Ipv4Addr::LOCALHOST, 0).into())?;
        let before = self.counts(&service, &service.scrape().await?);
        let mut outcome = self.round(&service, nap).await?;
        for _ in 1..self.scenario.rounds {
            outcome.add(self.round(&service, nap).await?);
        }
        if !matches!(self.scenario.verdict, Verdict::Deadlock(_)) {
            let mut metrics = service.settle().await?;
            let began = Instant::now();
            while self.waits_for_a_probe(&service, &metrics) && began.elapsed() < Duration::from_secs(12) {
                self.round(&service, nap).await?;
                metrics = service.settle().await?;
            }
            outcome.count(&before, &self.counts(&service, &metrics));
        }
        outcome.stalls = service.stalls();
        Ok(outcome)
    }

    /// The clients come once, all together.
    async fn round(&self, service: &Service, nap: Duration) -> Result<Outcome, Failure> {
        let patience = match self.scenario.verdict {
            Verdict::Deadlock(_) => nap * 4,
            _ => Duration::from_secs(60),
        };
        let connections = self.connections(service).await?;
        let bystanders = Bystanders::start(service.address).await?;
        let mut answers = self.ask(service, connections, patience).await?;
        while service.app.has_jobs() {
            time::sleep(Duration::from_millis(1)).await;
        }
        answers.sort_unstable();
        Ok(Outcome { bystanders: bystanders.end().await?, ..Outcome::of(nap, answers) })
    }

    /// Those of clients that have been served before.
    async fn connections(&self, service: &Service) -> Result<Vec<Connection>, Failure> {
        let mut connections = Vec::new();
        while self.scenario.kept_alive && connections.len() < self.clients {
            let mut connection = Connection::open(service.address).await?;
            connection.ask("/hello").await?;
            connections.push(connection);
        }
        Ok(connections)
    }

    async fn ask(
        &self,
        service: &Service,
        mut connections: Vec<Connection>,
        patience: Duration,
    ) -> Result<Vec<Answer>, Failure> {
        let Scenario { path, first, .. } = *self.scenario;
        let asked = Instant::now();
        let mut paths = first.into_iter().chain(std::iter::repeat(path)).take(self.clients);
        let first = match first {
            Some(_) => Some(lock(service, paths.next().unwrap_or(path), asked, patience).await),
            None => None,
        };
        let mut clients = JoinSet::new();
        for path in paths {
            match connections.pop() {
                Some(mut connection) => {
                    clients.spawn(Answer::to(async move { connection.ask(path).await }, asked, patience))
                }
                None => clients.spawn(Answer::to(ask_once(service.address, path), asked, patience)),
            };
        }
        let mut answers = clients.join_all().await;
        if let Some(first) = first {
            answers.push(first.await?);
        }
        Ok(answers)
    }

    /// The blocking pool is asked only now and then.
    fn waits_for_a_probe(&self, service: &Service, metrics: &Scrape) -> bool {
        matches!(self.scenario.verdict, Verdict::PoolIsFull)
            && self.counts(service, metrics).pool_delay < DELAYED.as_secs_f64()
    }

    fn counts(&self, service: &Service, metrics: &Scrape) -> Counts {
        let runtime = [("runtime", &*service.name)];
        Counts {
            handed_off: metrics.sum("tower_stall_handed_off_polls_total", &[("route", self.scenario.path)]),
            pool_delay: metrics.sum("tower_stall_blocking_pool_delay_seconds_sum", &runtime),
            rescues: metrics.sum("tower_stall_rescues_total", &runtime),
        }
    }
}

/// Asks, and returns when the lock is held on account of that.
async fn lock(service: &Service, path: &'static str, asked: Instant, patience: Duration) -> JoinHandle<Answer> {
    let holder = tokio::spawn(Answer::to(ask_once(service.address, path), asked, patience));
    while !service.app.is_ledger_locked() && !holder.is_finished() {
        time::sleep(Duration::from_millis(1)).await;
    }
    holder
}

// === impl Outcome ===

impl Outcome {
    fn of(nap: Duration, answers: Vec<Answer>) -> Self {
        Self {
            nap,
            answers,
            bystanders: Seen::default(),
            stalls: Vec::new(),
            handed_off: 0,
            pool_delay: Duration::ZERO,
            rescues: 0,
        }
    }

    fn add(&mut self, round: Self) {
        self.answers.extend(round.answers);
        self.bystanders.fresh = self.bystanders.fresh.and(round.bystanders.fresh);
        self.bystanders.kept_alive = self.bystanders.kept_alive.and(round.bystanders.kept_alive);
    }

    fn count(&mut self, before: &Counts, after: &Counts) {
        self.handed_off = (after.handed_off - before.handed_off) as u64;
        self.pool_delay = Duration::from_secs_f64((after.pool_delay - before.pool_delay).max(0.0));
        self.rescues = (after.rescues - before.rescues) as u64;
    }
}
