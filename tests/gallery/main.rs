//! A gallery of illnesses: each handler has one sickness, and the report must name its route, cause, system call and line.
//!
//! `TOWER_STALL_ROUNDS` says how often each is asked for, 2 times by default.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, unsafe_code)]
#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]

mod healthy;
mod service;
mod sick;
mod stopped;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use tower_stall::{Cause, Phase, Stall};

use self::service::Service;
use self::support::{eventually, scrape};

/// What the report says of one sick handler.
struct Illness {
    /// Its route without the slash, which is also what marks its lines.
    name: &'static str,
    causes: &'static [Cause],
    /// Any of these; none where it is empty.
    syscalls: &'static [&'static str],
}

/// How long it may take on a busy machine until a handler has a core for long enough.
const PATIENCE: Duration = Duration::from_secs(120);

const BLOCKED: &[Cause] = &[Cause::Blocked];
const CPU: &[Cause] = &[Cause::Cpu];

const fn blocked(name: &'static str, syscalls: &'static [&'static str]) -> Illness {
    Illness { name, causes: BLOCKED, syscalls }
}

const fn cpu(name: &'static str) -> Illness {
    Illness { name, causes: CPU, syscalls: &[] }
}

const SLEEP: &[&str] = &["clock_nanosleep"];

/// Those that a thread which is asleep has: no signal is needed.
const ASLEEP: &[Illness] = &[
    blocked("blocking-sleep", SLEEP),
    blocked("contended-mutex", &["futex"]),
    blocked("contended-rwlock", &["futex"]),
    blocked("channel-receive", &["futex"]),
    blocked("condition-variable", &["futex"]),
    blocked("tcp-read", &["recvfrom"]),
    blocked("tcp-connect", &["connect"]),
    blocked("pipe-read", &["read"]),
    // On a busy machine its start may take longer than its work.
    blocked("child-process", &["wait4", "waitid", "clone3", "read"]),
    blocked("inside-a-dependency", &["recvfrom"]),
    blocked("lazy-initialization", SLEEP),
    blocked("five-async-functions", SLEEP),
    blocked("in-the-body", SLEEP),
    blocked("in-call", SLEEP),
    blocked("drop-in-a-panic", SLEEP),
];

/// Those that burn CPU: the thread is interrupted.
const RUNNING: &[Illness] = &[cpu("busy-loop"), cpu("large-json"), cpu("backtracking"), cpu("password-hash")];

/// Those whose cause depends on the machine: its cores, a disk, a name server.
const EITHER: &[Illness] = &[
    Illness { name: "polling-loop", causes: &[Cause::Cpu, Cause::Blocked], syscalls: SLEEP },
    Illness { name: "file-sync", causes: &[Cause::Blocked, Cause::Cpu], syscalls: &["fsync", "write", "openat"] },
    Illness {
        name: "name-lookup",
        causes: &[Cause::Blocked, Cause::Cpu],
        syscalls: &[
            "poll",
            "ppoll",
            "recvfrom",
            "sendto",
            "sendmmsg",
            "connect",
            "openat",
            "read",
            "futex",
            "epoll_wait",
        ],
    },
];

fn rounds() -> usize {
    std::env::var("TOWER_STALL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2)
}

/// The lines of the source that are marked with a name.
fn marked(name: &str) -> Vec<u32> {
    let source = include_str!("sick.rs");
    let (mut lines, mut inside) = (Vec::new(), false);
    for (line, number) in source.lines().zip(1..) {
        let mark = line.split("// ").nth(1).unwrap_or_default();
        let is_marked = mark.contains(name);
        inside |= is_marked && mark.ends_with("from here");
        if is_marked || inside {
            lines.push(number);
        }
        inside &= !(is_marked && mark.ends_with("to here"));
    }
    // A loop's mark below its last line stands for the line of its condition, too.
    if name.ends_with("busy-loop") {
        lines.push(lines[0] - 1);
    }
    assert!(!lines.is_empty(), "no line is marked {name}");
    lines
}

/// Asks for a sick route, and returns what was told of it. What the machine did is told as such, and may keep the line from being seen;
/// then there is another chance.
#[track_caller]
fn stall_of(service: &Service, illness: &Illness) -> Stall {
    let route = format!("/{}", illness.name);
    let began = Instant::now();
    loop {
        // One that runs and sleeps by turns goes on by itself, others are caught unless the machine keeps them from it.
        let by_turns = illness.causes.len() > 1;
        let trouble_before = trouble(by_turns);
        let stall = next_stall(service, &route, &route);
        let missing = stall.missing().unwrap_or_default();
        // Half of it in the kernel, half of it copying: there may be no stack of the half that won.
        let is_half_seen = by_turns && missing.contains("only caught");
        let went_unseen = missing.contains(" caught") && !is_half_seen;
        if !went_unseen && !is_the_machines_fault(&stall) {
            return stall;
        }
        if went_unseen {
            eventually(&format!("what kept the watchdog from seeing is told: {stall}"), || {
                trouble(by_turns) > trouble_before
            });
        }
        assert!(began.elapsed() < PATIENCE, "{route} never has a core to itself: {stall}");
    }
}

/// How often the watchdog or a thread that it asked was kept off the cores for long, or also how often a thread went on before it was copied:
/// what was not seen then is nobody's fault.
fn trouble(also_torn: bool) -> u64 {
    let scrape = scrape();
    let late = |name, labels: &[_]| scrape.sum(name, labels) as u64;
    let looks = late("tower_stall_watchdog_late_seconds_count", &[]);
    let in_time = late("tower_stall_watchdog_late_seconds_bucket", &[("le", "0.01")]);
    let missed = |result| late("tower_stall_stack_captures_total", &[("result", result)]);
    looks - in_time + missed("timeout") + if also_torn { missed("torn") } else { 0 }
}

/// Asks for a path, and returns what was told of a route then, short stalls apart, which a busy machine may add.
#[track_caller]
fn next_stall(service: &Service, path: &str, route: &str) -> Stall {
    let long = || {
        let stalls = service.stalls(route).into_iter();
        stalls.filter(|stall| stall.duration() >= sick::NAP / 2).collect::<Vec<_>>()
    };
    let before = long().len();
    service.get(path);
    eventually("a stall is told", || long().len() > before);
    long().remove(before)
}

fn is_the_machines_fault(stall: &Stall) -> bool {
    matches!(stall.cause(), Cause::Preempted | Cause::Paused)
}

#[track_caller]
fn assert_named(service: &Service, illness: &Illness) {
    for _ in 0..rounds() {
        let stall = stall_of(service, illness);
        assert!(illness.causes.contains(&stall.cause()), "{stall}");
        if stall.cause() == Cause::Blocked {
            assert!(stall.syscall().is_some_and(|call| illness.syscalls.contains(&call)), "{stall}");
        } else {
            assert_eq!(stall.syscall(), None, "{stall}");
        }
        if illness.causes.len() > 1 && stall.location().is_none() {
            continue;
        }
        let location = stall.location().unwrap_or_else(|| panic!("no line: {stall}"));
        assert!(location.file().ends_with("tests/gallery/sick.rs"), "{stall}");
        assert!(marked(illness.name).contains(&location.line()), "not {:?}: {stall}", marked(illness.name));
        assert_trimmed(&stall);
    }
}

/// Nothing of what called the handler is on the stack.
#[track_caller]
fn assert_trimmed(stall: &Stall) {
    let outermost = stall.frames().last().unwrap();
    assert!(outermost.is_application(), "{stall}");
    for frame in stall.frames() {
        let file = frame.location().map(|location| location.file().to_owned()).unwrap_or_default();
        assert!(!file.starts_with("hyper-") && !file.starts_with("axum-"), "{stall}");
        assert!(!file.contains("src/meter/"), "{stall}");
    }
}

#[test]
fn who_sleeps_is_named_without_a_signal() {
    let service = Service::start(false);
    ASLEEP.iter().for_each(|illness| assert_named(&service, illness));
    assert_eq!(service.stalls("/in-the-body")[0].phase(), Phase::Body);
    assert_eq!(service.stalls("/in-call")[0].phase(), Phase::Handler);
}

#[test]
fn who_runs_is_named_with_a_signal() {
    let service = Service::start(true);
    RUNNING.iter().chain(EITHER).for_each(|illness| assert_named(&service, illness));
}

#[test]
fn without_signals_a_busy_loop_has_its_cause_and_says_what_would_name_its_line() {
    let service = Service::start(false);
    let stall = stall_of(&service, &RUNNING[0]);
    assert_eq!(stall.cause(), Cause::Cpu, "{stall}");
    assert!(stall.location().is_none());
    assert!(stall.missing().is_some_and(|missing| missing.contains("stack_signals")), "{stall}");
}

#[test]
fn five_async_functions_are_five_lines() {
    let service = Service::start(false);
    let stall = stall_of(&service, &blocked("five-async-functions", SLEEP));
    let application = stall.frames().iter().filter(|frame| frame.is_application());
    let lines: Vec<_> = application.map(|frame| frame.location().unwrap().line()).collect();
    let expected: Vec<_> = (1..=5).map(|level| marked(&format!("nested: {level}"))[0]).collect();
    assert_eq!(lines, expected, "{stall}");
}

#[test]
fn collapsed_stacks_have_the_time_of_each_line() {
    let service = Service::start(false);
    stall_of(&service, &blocked("five-async-functions", SLEEP));
    let stacks = service.collapsed_stacks();
    let stack = stacks.lines().find(|stack| stack.starts_with("GET /five-async-functions;")).expect(&stacks);
    let (frames, millis) = stack.rsplit_once(' ').unwrap();
    assert!(millis.parse::<u64>().unwrap() >= 100, "{stack}");
    let frames: Vec<_> = frames.split(';').skip(1).collect();
    assert!(frames.last().unwrap().contains("clock_nanosleep"), "{stack}");
    for (frame, level) in frames.iter().zip((1..=5).rev()) {
        assert!(frame.ends_with(&format!("sick.rs:{}", marked(&format!("nested: {level}"))[0])), "{frame} in {stack}");
    }
}

#[test]
fn a_poll_just_past_the_threshold_has_its_cause_and_line() {
    let service = Service::start(false);
    let is_told = |stall: &Stall| {
        let is_short = stall.duration() < Duration::from_millis(35);
        let line = stall.location().map(|location| location.line());
        is_short && stall.cause() == Cause::Blocked && line == Some(marked("just-past-the-threshold")[0])
    };
    // On a busy machine a sleep may last longer, so it is asked for until it does not.
    eventually("one is told", || {
        service.get("/just-past-the-threshold");
        service.all_stalls().iter().any(is_told)
    });
}

#[test]
fn a_task_that_nobody_measures_is_unattributed_and_has_its_line() {
    let service = Service::start(false);
    for _ in 0..rounds() {
        let stall = next_stall(&service, "/uninstrumented-task", "unattributed");
        assert_eq!((stall.method(), stall.cause(), stall.syscall()), ("TASK", Cause::Blocked, Some("clock_nanosleep")));
        assert_eq!(stall.location().map(|location| location.line()), Some(marked("uninstrumented-task")[0]), "{stall}");
    }
    assert!(service.stalls("/uninstrumented-task").is_empty());
}

#[test]
fn what_gives_its_worker_away_is_counted_and_no_stall() {
    let service = Service::start(false);
    let handed_off = || scrape().sum("tower_stall_handed_off_polls_total", &[("route", "/handed-off")]) as usize;
    for round in 1..=rounds() {
        service.get("/handed-off");
        eventually("it is told", || handed_off() + service.all_stalls().len() >= round);
        assert_eq!(handed_off(), round, "{:#?}", service.all_stalls());
    }
    assert!(service.stalls("/handed-off").is_empty(), "{}", service.stalls("/handed-off")[0]);
}

#[test]
fn what_gives_its_worker_away_late_is_a_stall_up_to_then() {
    let service = Service::start(false);
    let stall = next_stall(&service, "/late-block-in-place", "/late-block-in-place");
    assert!(stall.duration() < 2 * sick::NAP + sick::NAP / 2, "{stall}");
    let location = stall.location().map(|location| location.line());
    assert!(stall.cause() != Cause::Blocked || location == Some(marked("late-block-in-place")[0]), "{stall}");
}

#[test]
fn busy_neighbours_are_not_the_handler_s_fault() {
    let service = Service::start(true);
    for _ in 0..rounds() {
        service.get("/busy-neighbours");
    }
    eventually("all are told", || service.stalls("/busy-neighbours").len() >= rounds());
    for stall in service.stalls("/busy-neighbours") {
        assert_eq!(stall.cause(), Cause::Preempted, "{stall}");
        assert!(stall.location().is_none() && stall.detail().is_some(), "{stall}");
    }
}

#[test]
fn the_healthy_twins_give_no_report() {
    let service = Service::start(true);
    for _ in 0..rounds() {
        healthy::ROUTES.iter().for_each(|route| service.get(route));
    }
    // One that stalls comes last, so that all before it have been told of.
    stall_of(&service, &ASLEEP[0]);
    for stall in service.all_stalls() {
        assert!(stall.route() == "/blocking-sleep" || is_the_machines_fault(&stall), "{stall}");
    }
}

#[test]
fn the_docs_list_the_gallery() {
    const OTHERS: [&str; 4] = ["uninstrumented-task", "busy-neighbours", "block-in-place", "stopped-process"];
    let table = include_str!("../../src/docs/gallery.md");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let mut listed: Vec<_> = rows.clone().map(|(name, _)| name).collect();
    let illnesses = || ASLEEP.iter().chain(RUNNING).chain(EITHER);
    let mut shown: Vec<_> = illnesses().map(|illness| illness.name).chain(OTHERS).collect();
    listed.sort_unstable();
    shown.sort_unstable();
    assert_eq!(listed, shown);
    for illness in illnesses() {
        let (_, row) = rows.clone().find(|(name, _)| *name == illness.name).unwrap();
        assert!(illness.causes.iter().all(|cause| row.contains(cause.as_str())), "{row}");
        assert!(illness.syscalls.iter().take(1).all(|call| row.contains(call)), "{row}");
    }
}
