//! The scenarios.

use tower_stall::Cause;

use super::expectation::{Expectation, ExpectedStall};
use super::scenario::Scenario;
use super::service::Flavor::{self, CurrentThread, MultiThread};

const TWO: Flavor = MultiThread(2);
const FOUR: Flavor = MultiThread(4);

const NANOSLEEP: &[&str] = &["clock_nanosleep"];
const SLEEP: ExpectedStall = blocked("/blocking-sleep", NANOSLEEP, "blocking-sleep");
const MUTEX: ExpectedStall = blocked("/mutex", &["futex"], "mutex");

const fn blocked(
    route: &'static str,
    syscalls: &'static [&'static str],
    mark: &'static str,
) -> ExpectedStall {
    ExpectedStall { method: "GET", route, cause: Cause::Blocked, syscalls, mark }
}

const fn task(route: &'static str, mark: &'static str) -> ExpectedStall {
    ExpectedStall { method: "TASK", ..blocked(route, NANOSLEEP, mark) }
}

/// All scenarios, in the order of `docs/blocking.md`.
pub static SCENARIOS: &[Scenario] = &[
    Scenario::new("1", "blocking sleep", "/blocking-sleep", Expectation::Stalls(SLEEP))
        .on(&[(CurrentThread, &[2, 4, 5, 8])]),
    Scenario::new("2", "async sleep", "/async-sleep", Expectation::NoStall)
        .on(&[(CurrentThread, &[2, 4, 5, 8]), (TWO, &[8])]),
    Scenario::new(
        "3a",
        "blocking sleep in spawn_blocking",
        "/spawn-blocking",
        Expectation::NoStall,
    )
    .on(&[(CurrentThread, &[2, 4, 5, 8]), (TWO, &[8])]),
    Scenario::new(
        "3b",
        "the same, with a pool of 4 threads",
        "/spawn-blocking",
        Expectation::FullPool,
    )
    .blocking_threads(4)
    .on(&[(CurrentThread, &[5, 8]), (TWO, &[8])]),
    Scenario::new(
        "4a",
        "blocking sleep in block_in_place",
        "/block-in-place",
        Expectation::HandedOff,
    )
    .on(&[(TWO, &[2, 4, 5, 8])]),
    Scenario::new("4b", "the same, where it panics", "/block-in-place", Expectation::Panics)
        .on(&[(CurrentThread, &[2])]),
    Scenario::new(
        "4c",
        "the same, with a pool of 4 threads",
        "/block-in-place",
        Expectation::PartlyHandedOff("/block-in-place"),
    )
    .blocking_threads(4)
    .on(&[(TWO, &[8])]),
    Scenario::new(
        "5a",
        "responds, then blocking sleep in a task",
        "/after/blocking-sleep",
        Expectation::Stalls(task("unattributed", "unattributed")),
    )
    .on(&[(CurrentThread, &[2, 5]), (TWO, &[2])]),
    Scenario::new(
        "5b",
        "the same in an instrumented task",
        "/after/instrumented",
        Expectation::Stalls(task("send-mail", "send-mail")),
    )
    .on(&[(CurrentThread, &[2, 5]), (TWO, &[2])]),
    Scenario::new(
        "5c",
        "the same in spawn_blocking",
        "/after/spawn-blocking",
        Expectation::NoStall,
    )
    .on(&[(CurrentThread, &[2, 5])]),
    Scenario::new(
        "5d",
        "responds, then async sleep in a task",
        "/after/async-sleep",
        Expectation::NoStall,
    )
    .on(&[(CurrentThread, &[2, 5])]),
    Scenario::new(
        "6a",
        "computing in the handler",
        "/cpu",
        Expectation::Stalls(ExpectedStall { cause: Cause::Cpu, ..blocked("/cpu", &[], "cpu") }),
    )
    .on(&[(CurrentThread, &[2, 4]), (TWO, &[2])]),
    Scenario::new("6b", "computing in spawn_blocking", "/cpu/spawn-blocking", Expectation::NoStall)
        .on(&[(CurrentThread, &[2, 4])]),
    Scenario::new("6c", "computing in rayon's pool", "/cpu/rayon", Expectation::NoStall)
        .on(&[(CurrentThread, &[2, 4])]),
    Scenario::new(
        "7a",
        "blocking sleep, kept alive, no rescue",
        "/blocking-sleep",
        Expectation::Starves(SLEEP),
    )
    .kept_alive(5)
    .without_rescue()
    .on(&[(TWO, &[1]), (FOUR, &[1])]),
    Scenario::new(
        "7b",
        "blocking sleep, kept alive, rescue",
        "/blocking-sleep",
        Expectation::Rescued(SLEEP),
    )
    .kept_alive(5)
    .on(&[(TWO, &[1]), (FOUR, &[1])]),
    Scenario::new(
        "8",
        "blocking sleep, more workers",
        "/blocking-sleep",
        Expectation::Stalls(SLEEP),
    )
    .on(&[(TWO, &[2, 3, 4, 5, 8]), (FOUR, &[2, 4, 5, 8])]),
    Scenario::new(
        "9a",
        "blocking HTTP client (ureq)",
        "/http",
        Expectation::Stalls(blocked("/http", &["recvfrom"], "http")),
    )
    .on(&[(CurrentThread, &[2, 4]), (TWO, &[4])]),
    Scenario::new("9b", "the same in spawn_blocking", "/http/spawn-blocking", Expectation::NoStall)
        .on(&[(CurrentThread, &[2, 4])]),
    Scenario::new("9c", "async HTTP client (hyper)", "/http/async", Expectation::NoStall)
        .on(&[(CurrentThread, &[2, 4])]),
    Scenario::new(
        "9d",
        "locked database (rusqlite)",
        "/database",
        Expectation::Stalls(blocked("/database", NANOSLEEP, "database")),
    )
    .on(&[(CurrentThread, &[2, 4]), (TWO, &[4])]),
    Scenario::new(
        "9e",
        "the same in spawn_blocking",
        "/database/spawn-blocking",
        Expectation::NoStall,
    )
    .on(&[(CurrentThread, &[2, 4])]),
    Scenario::new("10a", "std mutex, held across an await", "/mutex", Expectation::Stalls(MUTEX))
        .after("/mutex/held-across-await")
        .on(&[(TWO, &[2])]),
    Scenario::new(
        "10b",
        "the same, no worker left: deadlock",
        "/mutex",
        Expectation::Deadlock(MUTEX),
    )
    .after("/mutex/held-across-await")
    .on(&[(CurrentThread, &[2]), (TWO, &[3])]),
    Scenario::new("10c", "tokio mutex, held across an await", "/mutex/async", Expectation::NoStall)
        .on(&[(CurrentThread, &[2, 4]), (TWO, &[4])]),
];
