//! Tests of what `docs/blocking.md` says: in each scenario, which requests are delayed and what the
//! layer reports.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]

use std::time::Duration;

use blocking_or_not::{
    ClientOutcome, Expectation, ExpectedStall, Experiment, Flavor, Outcome, SCENARIOS, Scenario,
    Verdict,
};
use tower_stall::Stall;

/// Several stall thresholds, and none of the ages at which a stack is sampled.
const SLEEP: Duration = Duration::from_millis(300);

fn scenario(number: &str) -> &'static Scenario {
    SCENARIOS.iter().find(|scenario| scenario.number == number).unwrap()
}

/// Runs an experiment. Fails unless the layer reports what it should.
#[track_caller]
fn run(experiment: &Experiment) -> Outcome {
    let clients = Flavor::CurrentThread.runtime(1).unwrap();
    let (outcome, verdict) = clients.block_on(experiment.run(SLEEP, None)).unwrap();
    assert_eq!(verdict, Verdict::AsExpected, "{experiment:#?}");
    outcome
}

/// Runs a scenario on each of its runtimes, with the smallest number of clients.
#[track_caller]
fn run_scenario(number: &str) -> Vec<Outcome> {
    let scenario = scenario(number);
    let with_fewest_clients = |(flavor, clients): &(Flavor, &[usize])| Experiment {
        scenario,
        flavor: *flavor,
        clients: clients[0],
    };
    scenario.runs.iter().map(|runs| run(&with_fewest_clients(runs))).collect()
}

/// Runs a scenario until all outcomes are undelayed: a busy host may delay requests, too. Fails if
/// that does not happen within 20 attempts.
#[track_caller]
fn run_until_undelayed(number: &str, is_undelayed: impl Fn(&Outcome) -> bool) {
    let mut attempts = (0..20).map(|_| run_scenario(number));
    let has_undelayed = attempts.any(|outcomes| outcomes.iter().all(&is_undelayed));
    assert!(has_undelayed, "{number}: requests are delayed each time");
}

fn response_times(outcome: &Outcome) -> Vec<Duration> {
    let time = |response: &ClientOutcome| match response {
        ClientOutcome::After(time) => *time,
        _ => panic!("{outcome:#?}"),
    };
    outcome.responses.iter().map(time).collect()
}

/// Asserts that each client waited for all clients before it.
#[track_caller]
fn assert_clients_are_serialized(outcome: &Outcome) {
    for (time, turn) in response_times(outcome).into_iter().zip(1..) {
        assert!(time >= SLEEP * turn, "{outcome:#?}");
    }
}

/// Asserts that all kept-alive bystanders were delayed, and some on fresh connections.
#[track_caller]
fn assert_bystanders_are_delayed(outcome: &Outcome) {
    let bystanders = outcome.bystanders;
    assert_eq!(bystanders.kept_alive.delayed, bystanders.kept_alive.total, "{outcome:#?}");
    assert!(bystanders.fresh.delayed > 0, "{outcome:#?}");
}

fn clients_are_concurrent(outcome: &Outcome) -> bool {
    response_times(outcome).into_iter().all(|time| time < SLEEP * 2)
}

fn bystanders_are_undelayed(outcome: &Outcome) -> bool {
    let bystanders = outcome.bystanders;
    bystanders.fresh.worst.max(bystanders.kept_alive.worst) < SLEEP / 2
}

fn all_are_undelayed(outcome: &Outcome) -> bool {
    clients_are_concurrent(outcome) && bystanders_are_undelayed(outcome)
}

#[test]
fn a_blocking_sleep_delays_all_requests() {
    for outcome in run_scenario("1") {
        assert_clients_are_serialized(&outcome);
        assert_bystanders_are_delayed(&outcome);
        assert!(outcome.stalls.len() >= outcome.responses.len(), "{outcome:#?}");
    }
}

#[test]
fn an_async_sleep_delays_no_request() {
    run_until_undelayed("2", all_are_undelayed);
}

#[test]
fn spawn_blocking_delays_no_request() {
    run_until_undelayed("3a", all_are_undelayed);
}

#[test]
fn a_full_blocking_pool_delays_only_its_own_clients() {
    run_until_undelayed("3b", bystanders_are_undelayed);
    for outcome in run_scenario("3b") {
        assert!(response_times(&outcome).last().unwrap() >= &(SLEEP * 2), "{outcome:#?}");
    }
}

/// One test for three scenarios, because they count in the same series.
#[test]
fn block_in_place_hands_off_the_worker_where_it_can() {
    run_until_undelayed("4a", all_are_undelayed);
    run_scenario("4b");
    for outcome in run_scenario("4c") {
        assert!(outcome.bystanders.kept_alive.delayed > 0, "{outcome:#?}");
    }
}

#[test]
fn blocking_after_the_response_delays_other_requests() {
    for number in ["5a", "5b"] {
        let outcomes = run_scenario(number);
        assert_bystanders_are_delayed(&outcomes[0]);
    }
}

#[test]
fn non_blocking_work_after_the_response_delays_no_request() {
    run_until_undelayed("5c", bystanders_are_undelayed);
    run_until_undelayed("5d", bystanders_are_undelayed);
}

#[test]
fn computing_in_a_handler_is_reported_as_cpu() {
    let outcomes = run_scenario("6a");
    assert_bystanders_are_delayed(&outcomes[0]);
    run_scenario("6b");
    run_scenario("6c");
}

#[test]
fn one_blocked_worker_starves_idle_ones_without_rescue() {
    for outcome in run_scenario("7a") {
        assert!(outcome.bystanders.kept_alive.delayed > 0, "{outcome:#?}");
        assert!(!outcome.stalls.iter().any(Stall::is_rescued));
    }
    run_until_undelayed("7b", bystanders_are_undelayed);
}

#[test]
fn more_workers_only_raise_the_limit() {
    for workers in [2, 4] {
        let scenario = scenario("8");
        let flavor = Flavor::MultiThread(workers);
        let all_blocked = run(&Experiment { scenario, flavor, clients: workers });
        assert!(all_blocked.bystanders.kept_alive.delayed > 0, "{all_blocked:#?}");
        let one_more = run(&Experiment { scenario, flavor, clients: workers + 1 });
        assert!(response_times(&one_more).last().unwrap() >= &(SLEEP * 2), "{one_more:#?}");
    }
}

#[test]
fn synchronous_clients_are_reported_with_their_peer() {
    for number in ["9a", "9d"] {
        let outcomes = run_scenario(number);
        assert_clients_are_serialized(&outcomes[0]);
        assert_bystanders_are_delayed(&outcomes[0]);
    }
    for outcome in run_scenario("9a") {
        let details: Vec<_> = outcome.stalls.iter().filter_map(Stall::detail).collect();
        let is_upstream = |detail: &&str| detail.starts_with("socket to 127.0.0.1:");
        assert!(!details.is_empty() && details.iter().all(is_upstream), "{details:?}");
    }
}

#[test]
fn synchronous_clients_in_the_blocking_pool_delay_no_request() {
    for number in ["9b", "9c", "9e"] {
        run_until_undelayed(number, all_are_undelayed);
    }
}

#[test]
fn waiting_for_a_std_mutex_stalls_a_worker_and_may_deadlock() {
    run_scenario("10a");
    for outcome in run_scenario("10b") {
        assert_bystanders_are_delayed(&outcome);
        assert!(outcome.stalls.iter().any(Stall::is_in_progress));
    }
}

#[test]
fn waiting_for_a_tokio_mutex_delays_only_its_own_clients() {
    run_scenario("10c").iter().for_each(assert_clients_are_serialized);
    run_until_undelayed("10c", bystanders_are_undelayed);
}

#[test]
fn wrong_expectations_are_detected() {
    let outcome = &run_scenario("1")[0];
    let Expectation::Stalls(stall) = scenario("1").expectation else { panic!() };
    let is_wrong = |expectation: Expectation| expectation.check(outcome) != Verdict::AsExpected;
    assert!(is_wrong(Expectation::NoStall));
    assert!(is_wrong(Expectation::HandedOff));
    assert!(is_wrong(Expectation::Stalls(ExpectedStall { mark: "http", ..stall })));
    assert!(is_wrong(Expectation::Stalls(ExpectedStall { route: "/hello", ..stall })));
    assert!(is_wrong(Expectation::Stalls(ExpectedStall { syscalls: &["futex"], ..stall })));
    assert!(is_wrong(Expectation::Deadlock(stall)));
}

#[test]
fn the_docs_have_a_row_for_each_scenario() {
    let docs = include_str!("../../../docs/blocking.md");
    for scenario in SCENARIOS {
        let start = format!("| {:<4}", scenario.number);
        let row = docs.lines().find(|line| line.starts_with(&start));
        assert!(row.is_some_and(|row| row.contains(scenario.what)), "{}", scenario.number);
    }
}
