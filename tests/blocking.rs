//! A test of what `examples/blocking_or_not` and `docs/blocking.md` say: for each scenario what the layer tells, and who waits for whom.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]

#[path = "../examples/common/burn.rs"]
mod burn;
#[allow(dead_code, unused_imports)] // The example uses all of it.
#[path = "../examples/blocking_or_not/lab/mod.rs"]
mod lab;

use std::time::Duration;

use tower_stall::Stall;

use self::lab::{Answer, Culprit, Experiment, Flavor, Judgement, Outcome, SCENARIOS, Scenario, Verdict};

/// Several thresholds, and not one of the ages at which a stack is taken.
const NAP: Duration = Duration::from_millis(300);

fn scenario(number: &str) -> &'static Scenario {
    SCENARIOS.iter().find(|scenario| scenario.number == number).unwrap()
}

fn run(experiment: &Experiment) -> Outcome {
    let clients = Flavor::CurrentThread.runtime(1).unwrap();
    let (outcome, judgement) = clients.block_on(experiment.judged(NAP, None)).unwrap();
    assert_eq!(judgement, Judgement::Right, "{experiment:#?}");
    outcome
}

/// Runs a scenario with as few clients as it is listed with, on each of its runtimes, and judges what the layer tells.
fn right(number: &str) -> Vec<Outcome> {
    let runs = scenario(number).runs.iter();
    let fewest = |(flavor, clients): &(Flavor, &[usize])| Experiment {
        scenario: scenario(number),
        flavor: *flavor,
        clients: clients[0],
    };
    runs.map(fewest).map(|experiment| run(&experiment)).collect()
}

/// The same, until nobody has waited: on a machine with much to do somebody may wait for the machine.
fn right_and(number: &str, nobody_waited: impl Fn(&Outcome) -> bool) {
    let seen = (0..20).map(|_| right(number)).find(|outcomes| outcomes.iter().all(&nobody_waited));
    assert!(seen.is_some(), "{number}: somebody waits each time");
}

fn times(outcome: &Outcome) -> Vec<Duration> {
    let time = |answer: &Answer| if let Answer::After(time) = answer { *time } else { panic!("{outcome:#?}") };
    outcome.answers.iter().map(time).collect()
}

/// Each client had to wait for all before it.
#[track_caller]
fn assert_one_after_the_other(outcome: &Outcome) {
    for (time, turn) in times(outcome).into_iter().zip(1..) {
        assert!(time >= NAP * turn, "{outcome:#?}");
    }
}

/// All that wanted something else were held up.
#[track_caller]
fn assert_all_stand_still(outcome: &Outcome) {
    let seen = outcome.bystanders;
    assert_eq!(seen.kept_alive.delayed, seen.kept_alive.asked, "{outcome:#?}");
    assert!(seen.fresh.delayed > 0, "{outcome:#?}");
}

fn clients_are_together(outcome: &Outcome) -> bool {
    times(outcome).into_iter().all(|time| time < NAP * 2)
}

fn bystanders_go_on(outcome: &Outcome) -> bool {
    outcome.bystanders.fresh.worst.max(outcome.bystanders.kept_alive.worst) < NAP / 2
}

fn nobody_waits(outcome: &Outcome) -> bool {
    clients_are_together(outcome) && bystanders_go_on(outcome)
}

#[test]
fn behind_a_blocking_sleep_everybody_waits() {
    for outcome in right("1") {
        assert_one_after_the_other(&outcome);
        assert_all_stand_still(&outcome);
        assert!(outcome.stalls.len() >= outcome.answers.len(), "{outcome:#?}");
    }
}

#[test]
fn an_async_sleep_holds_up_nobody() {
    right_and("2", nobody_waits);
}

#[test]
fn spawn_blocking_holds_up_nobody() {
    right_and("3a", nobody_waits);
}

#[test]
fn behind_a_full_pool_only_its_own_clients_wait_and_its_delay_tells() {
    right_and("3b", bystanders_go_on);
    for outcome in right("3b") {
        assert!(times(&outcome).last().unwrap() >= &(NAP * 2), "{outcome:#?}");
    }
}

/// In one test, as they count in the same series.
#[test]
fn block_in_place_gives_the_worker_away_where_it_can() {
    right_and("4a", nobody_waits);
    right("4b");
    for outcome in right("4c") {
        assert!(outcome.bystanders.kept_alive.delayed > 0, "{outcome:#?}");
    }
}

#[test]
fn work_after_the_answer_holds_a_worker_as_well() {
    for number in ["5a", "5b"] {
        let outcomes = right(number);
        assert_all_stand_still(&outcomes[0]);
    }
}

#[test]
fn work_after_the_answer_done_right_holds_up_nobody() {
    right_and("5c", bystanders_go_on);
    right_and("5d", bystanders_go_on);
}

#[test]
fn computing_in_a_handler_is_told_as_such() {
    let outcomes = right("6a");
    assert_all_stand_still(&outcomes[0]);
    right("6b");
    right("6c");
}

#[test]
fn one_blocker_starves_idle_workers_but_for_the_rescue() {
    for outcome in right("7a") {
        assert!(outcome.bystanders.kept_alive.delayed > 0, "{outcome:#?}");
        assert!(!outcome.stalls.iter().any(Stall::is_rescued));
    }
    right_and("7b", bystanders_go_on);
}

#[test]
fn more_workers_only_move_the_cliff() {
    for workers in [2, 4] {
        let with = |clients| Experiment { scenario: scenario("8"), flavor: Flavor::MultiThread(workers), clients };
        let all_held = run(&with(workers));
        assert!(all_held.bystanders.kept_alive.delayed > 0, "{all_held:#?}");
        let one_more = run(&with(workers + 1));
        assert!(times(&one_more).last().unwrap() >= &(NAP * 2), "{one_more:#?}");
    }
}

#[test]
fn synchronous_clients_are_told_with_what_they_wait_for() {
    for number in ["9a", "9d"] {
        let outcomes = right(number);
        assert_one_after_the_other(&outcomes[0]);
        assert_all_stand_still(&outcomes[0]);
    }
    for outcome in right("9a") {
        let details = outcome.stalls.iter().filter_map(Stall::detail);
        assert!(
            details.clone().count() > 0 && details.clone().all(|detail| detail.starts_with("socket to 127.0.0.1:"))
        );
    }
}

#[test]
fn the_same_clients_in_the_pool_hold_up_nobody() {
    for number in ["9b", "9c", "9e"] {
        right_and(number, nobody_waits);
    }
}

#[test]
fn who_waits_for_a_std_mutex_holds_a_worker_and_the_last_one_is_a_deadlock() {
    right("10a");
    for outcome in right("10b") {
        assert_all_stand_still(&outcome);
        assert!(outcome.stalls.iter().any(Stall::is_in_progress));
    }
}

#[test]
fn who_waits_for_a_tokio_mutex_waits_alone() {
    right("10c").iter().for_each(assert_one_after_the_other);
    right_and("10c", bystanders_go_on);
}

#[test]
fn a_wrong_verdict_is_noticed() {
    let outcome = &right("1")[0];
    let Verdict::Stalls(culprit) = scenario("1").verdict else { panic!() };
    let is_wrong = |verdict: Verdict| verdict.judge(outcome) != Judgement::Right;
    assert!(is_wrong(Verdict::Healthy));
    assert!(is_wrong(Verdict::HandedOff));
    assert!(is_wrong(Verdict::Stalls(Culprit { mark: "http", ..culprit })));
    assert!(is_wrong(Verdict::Stalls(Culprit { route: "/hello", ..culprit })));
    assert!(is_wrong(Verdict::Stalls(Culprit { syscalls: &["futex"], ..culprit })));
    assert!(is_wrong(Verdict::Deadlock(culprit)));
}

#[test]
fn the_page_tells_of_each_scenario() {
    let page = include_str!("../docs/blocking.md");
    for scenario in SCENARIOS {
        let row = page.lines().find(|line| line.starts_with(&format!("| {:<4}", scenario.number)));
        assert!(row.is_some_and(|row| row.contains(scenario.what)), "{}", scenario.number);
    }
}
