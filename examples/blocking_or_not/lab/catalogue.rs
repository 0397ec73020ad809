//! The scenarios.

use tower_stall::Cause;

use super::scenario::Scenario;
use super::service::Flavor::{self, CurrentThread, MultiThread};
use super::verdict::{Culprit, Verdict};

const TWO: Flavor = MultiThread(2);
const FOUR: Flavor = MultiThread(4);

const SLEEPER: Culprit = asleep("/blocking-sleep", SLEEP, "blocking-sleep");
const SLEEP: &[&str] = &["clock_nanosleep"];

const fn asleep(route: &'static str, syscalls: &'static [&'static str], mark: &'static str) -> Culprit {
    Culprit { method: "GET", route, cause: Cause::Blocked, syscalls, mark }
}

const fn task(route: &'static str, mark: &'static str) -> Culprit {
    Culprit { method: "TASK", ..asleep(route, SLEEP, mark) }
}

pub(crate) static SCENARIOS: &[Scenario] = &[
    Scenario::new("1", "blocking sleep", "/blocking-sleep", Verdict::Stalls(SLEEPER))
        .on(&[(CurrentThread, &[2, 4, 5, 8])]),
    Scenario::new("2", "async sleep", "/async-sleep", Verdict::Healthy)
        .on(&[(CurrentThread, &[2, 4, 5, 8]), (TWO, &[8])]),
    Scenario::new("3a", "blocking sleep in spawn_blocking", "/spawn-blocking", Verdict::Healthy)
        .on(&[(CurrentThread, &[2, 4, 5, 8]), (TWO, &[8])]),
    Scenario::new("3b", "the same, with a pool of 4 threads", "/spawn-blocking", Verdict::PoolIsFull)
        .blocking_threads(4)
        .on(&[(CurrentThread, &[5, 8]), (TWO, &[8])]),
    Scenario::new("4a", "blocking sleep in block_in_place", "/block-in-place", Verdict::HandedOff)
        .on(&[(TWO, &[2, 4, 5, 8])]),
    Scenario::new("4b", "the same, where it panics", "/block-in-place", Verdict::Panics).on(&[(CurrentThread, &[2])]),
    Scenario::new(
        "4c",
        "the same, with a pool of 4 threads",
        "/block-in-place",
        Verdict::PartlyHandedOff("/block-in-place"),
    )
    .blocking_threads(4)
    .on(&[(TWO, &[8])]),
    Scenario::new(
        "5a",
        "answered, then blocking sleep in a task",
        "/after/blocking-sleep",
        Verdict::Stalls(task("unattributed", "unattributed")),
    )
    .on(&[(CurrentThread, &[2, 5]), (TWO, &[2])]),
    Scenario::new(
        "5b",
        "the same in an instrumented task",
        "/after/instrumented",
        Verdict::Stalls(task("send-mail", "send-mail")),
    )
    .on(&[(CurrentThread, &[2, 5]), (TWO, &[2])]),
    Scenario::new("5c", "the same in spawn_blocking", "/after/spawn-blocking", Verdict::Healthy)
        .on(&[(CurrentThread, &[2, 5])]),
    Scenario::new("5d", "answered, then async sleep in a task", "/after/async-sleep", Verdict::Healthy)
        .on(&[(CurrentThread, &[2, 5])]),
    Scenario::new(
        "6a",
        "computing in the handler",
        "/cpu",
        Verdict::Stalls(Culprit { cause: Cause::Cpu, ..asleep("/cpu", &[], "cpu") }),
    )
    .on(&[(CurrentThread, &[2, 4]), (TWO, &[2])]),
    Scenario::new("6b", "computing in spawn_blocking", "/cpu/spawn-blocking", Verdict::Healthy)
        .on(&[(CurrentThread, &[2, 4])]),
    Scenario::new("6c", "computing in rayon's pool", "/cpu/rayon", Verdict::Healthy).on(&[(CurrentThread, &[2, 4])]),
    Scenario::new("7a", "blocking sleep, kept alive, no rescue", "/blocking-sleep", Verdict::Starves(SLEEPER))
        .kept_alive(5)
        .without_rescue()
        .on(&[(TWO, &[1]), (FOUR, &[1])]),
    Scenario::new("7b", "blocking sleep, kept alive, rescue", "/blocking-sleep", Verdict::Rescued(SLEEPER))
        .kept_alive(5)
        .on(&[(TWO, &[1]), (FOUR, &[1])]),
    Scenario::new("8", "blocking sleep, more workers", "/blocking-sleep", Verdict::Stalls(SLEEPER))
        .on(&[(TWO, &[2, 3, 4, 5, 8]), (FOUR, &[2, 4, 5, 8])]),
    Scenario::new(
        "9a",
        "blocking HTTP client (ureq)",
        "/http",
        Verdict::Stalls(asleep("/http", &["recvfrom"], "http")),
    )
    .on(&[(CurrentThread, &[2, 4]), (TWO, &[4])]),
    Scenario::new("9b", "the same in spawn_blocking", "/http/spawn-blocking", Verdict::Healthy)
        .on(&[(CurrentThread, &[2, 4])]),
    Scenario::new("9c", "async HTTP client (hyper)", "/http/async", Verdict::Healthy).on(&[(CurrentThread, &[2, 4])]),
    Scenario::new(
        "9d",
        "locked database (rusqlite)",
        "/database",
        Verdict::Stalls(asleep("/database", SLEEP, "database")),
    )
    .on(&[(CurrentThread, &[2, 4]), (TWO, &[4])]),
    Scenario::new("9e", "the same in spawn_blocking", "/database/spawn-blocking", Verdict::Healthy)
        .on(&[(CurrentThread, &[2, 4])]),
    Scenario::new(
        "10a",
        "std mutex, held across an await",
        "/mutex",
        Verdict::Stalls(asleep("/mutex", &["futex"], "mutex")),
    )
    .after("/mutex/held-across-await")
    .on(&[(TWO, &[2])]),
    Scenario::new(
        "10b",
        "the same, no worker left: deadlock",
        "/mutex",
        Verdict::Deadlock(asleep("/mutex", &["futex"], "mutex")),
    )
    .after("/mutex/held-across-await")
    .on(&[(CurrentThread, &[2]), (TWO, &[3])]),
    Scenario::new("10c", "tokio mutex, held across an await", "/mutex/async", Verdict::Healthy)
        .on(&[(CurrentThread, &[2, 4]), (TWO, &[4])]),
];
