//! Instructions, counted one by one: the kernel steps a child process through one request, on the real processor, the vDSO included.

use std::process::{Command, Stdio};
use std::task::Context;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::load::{self, Work};
use crate::subject::Subject;
use crate::variants::{Recorders, Variant};

/// Begins and ends what is counted.
const MARK: Signal = Signal::SIGUSR1;
/// Requests that are stepped through; the middle one is told, as a histogram of `metrics` allocates a block now and then.
const REQUESTS: usize = 9;
const WARM_UP: usize = 300;

/// Instructions of one request.
pub fn count(variant: Variant, work: Work) -> u64 {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg("child-steps").args([to_json(&variant), to_json(&work)]).stdin(Stdio::null());
    // It is waited for by `follow`, which sees its end before anybody else could.
    #[expect(clippy::zombie_processes)]
    let child = command.spawn().expect("a child");
    let counts = follow(Pid::from_raw(i32::try_from(child.id()).expect("a pid")));
    // The first region is empty: what the marks themselves cost.
    let (empty, mut requests) = (counts[0], counts[1..].to_vec());
    requests.sort_unstable();
    requests[requests.len() / 2] - empty
}

/// The child's side.
pub fn child(variant: &str, work: &str) {
    let (variant, work) = (from_json(variant), from_json(work));
    let recorders = Recorders::install();
    let mut subject = Subject::new(variant, work, &recorders);
    let waker = load::waker();
    let mut cx = Context::from_waker(&waker);
    subject.warm_up(WARM_UP, &mut cx);
    ptrace::traceme().expect("to be traced");
    let mark = || raise(MARK).expect("a mark");
    mark();
    mark();
    for _ in 0..REQUESTS {
        let request = subject.prepare();
        mark();
        subject.run(request, &mut cx);
        mark();
    }
}

/// Only runs, for a profiler.
pub fn run(variant: &str, work: &str, times: usize) {
    let recorders = Recorders::install();
    let mut subject = Subject::new(from_json(variant), from_json(work), &recorders);
    let waker = load::waker();
    let mut cx = Context::from_waker(&waker);
    subject.warm_up(WARM_UP, &mut cx);
    for _ in 0..times {
        let request = subject.prepare();
        subject.run(request, &mut cx);
    }
}

/// Steps the child through what lies between each two marks, and lets it run otherwise.
fn follow(child: Pid) -> Vec<u64> {
    let mut counts = Vec::new();
    let mut inside = false;
    let mut steps = 0;
    loop {
        match waitpid(child, None).expect("the child") {
            WaitStatus::Stopped(_, MARK) => {
                if inside {
                    counts.push(steps);
                }
                inside = !inside;
                steps = 0;
            }
            WaitStatus::Stopped(_, Signal::SIGTRAP) => steps += 1,
            WaitStatus::Stopped(_, other) => {
                ptrace::cont(child, other).expect("to go on");
                continue;
            }
            WaitStatus::Exited(_, 0) => return counts,
            other => panic!("the child ended: {other:?}"),
        }
        if inside { ptrace::step(child, None) } else { ptrace::cont(child, None) }.expect("to go on");
    }
}

fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("JSON")
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).expect("JSON")
}
