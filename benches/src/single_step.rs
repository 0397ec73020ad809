//! Instruction counts by `PTRACE_SINGLESTEP`: on the real processor, with the vDSO included.

use std::process::{Command, Stdio};
use std::task::Context;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::benchmark::Benchmark;
use crate::executor;
use crate::recorders::Recorders;
use crate::variants::Variant;
use crate::workload::Workload;

/// The signal that starts and ends a counted region.
const MARKER: Signal = Signal::SIGUSR1;
/// Requests that are counted. The median is reported, because a histogram of `metrics` allocates a
/// block now and then.
const REQUESTS: usize = 9;
const WARM_UP: usize = 300;

/// Returns the instructions of one request.
pub fn count(variant: Variant, workload: Workload) -> u64 {
    let variant = serde_json::to_string(&variant).expect("JSON");
    let workload = serde_json::to_string(&workload).expect("JSON");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["child-single-step", &variant, &workload]).stdin(Stdio::null());
    // `count_regions` waits for it.
    #[expect(clippy::zombie_processes)]
    let child = command.spawn().expect("a child process");
    let counts = count_regions(Pid::from_raw(i32::try_from(child.id()).expect("a pid")));
    // The first region is empty: it counts the instructions of the markers.
    let (empty, mut requests) = (counts[0], counts[1..].to_vec());
    requests.sort_unstable();
    requests[requests.len() / 2] - empty
}

/// Runs in the child process.
pub fn child(variant: &str, workload: &str) {
    let variant = serde_json::from_str(variant).expect("a variant");
    let workload = serde_json::from_str(workload).expect("a workload");
    let recorders = Recorders::install();
    let mut benchmark = Benchmark::new(variant, workload, &recorders);
    let waker = executor::waker();
    let mut cx = Context::from_waker(&waker);
    benchmark.warm_up(WARM_UP, &mut cx);
    ptrace::traceme().expect("ptrace is allowed");
    let mark = || raise(MARKER).expect("the signal is raised");
    mark();
    mark();
    for _ in 0..REQUESTS {
        let request = benchmark.prepare();
        mark();
        benchmark.run(request, &mut cx);
        mark();
    }
}

/// Steps the child process through each region between two markers, and returns their lengths. The
/// child runs freely outside these regions.
fn count_regions(child: Pid) -> Vec<u64> {
    let mut counts = Vec::new();
    let mut is_counting = false;
    let mut steps = 0;
    loop {
        match waitpid(child, None).expect("a child process") {
            WaitStatus::Stopped(_, MARKER) => {
                if is_counting {
                    counts.push(steps);
                }
                is_counting = !is_counting;
                steps = 0;
            }
            WaitStatus::Stopped(_, Signal::SIGTRAP) => steps += 1,
            WaitStatus::Stopped(_, signal) => {
                ptrace::cont(child, signal).expect("the child continues");
                continue;
            }
            WaitStatus::Exited(_, 0) => return counts,
            status => panic!("the child process ended: {status:?}"),
        }
        let resumed =
            if is_counting { ptrace::step(child, None) } else { ptrace::cont(child, None) };
        resumed.expect("the child continues");
    }
}
