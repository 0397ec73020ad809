//! A process that is stopped and continued: a host delay.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use tower_stall::Cause;

use super::is_host_delay;
use super::support::{builder_for, child_command, eventually, is_child, runtime};

/// The index of the child's poll during which the parent stops it.
const STOPPED_POLL: usize = 10;

#[test]
fn a_stopped_process_is_a_host_delay() {
    if is_child() {
        return work();
    }
    let mut command = child_command("stopped::a_stopped_process_is_a_host_delay");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().contains("working")).unwrap().unwrap();
    let process = libc::pid_t::try_from(child.id()).unwrap();
    let send = |signal| {
        // SAFETY: the child has not been waited for, so the process id is its own.
        assert_eq!(unsafe { libc::kill(process, signal) }, 0);
    };
    send(libc::SIGSTOP);
    // How long the child is stopped, not a synchronization.
    thread::sleep(Duration::from_millis(600));
    send(libc::SIGCONT);
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{rest:#?}");
    // A name that no test has would pass, too.
    assert!(rest.iter().any(|line| line.contains("1 passed")), "{rest:#?}");
}

/// Runs polls of 40 ms, far below the threshold, one after another.
fn work() {
    let runtime = runtime(1);
    let monitor =
        builder_for(&runtime).stall_threshold(Duration::from_millis(250)).spawn().unwrap();
    let naps = monitor.instrument("naps", async move {
        for poll in 0..60 {
            if poll == STOPPED_POLL {
                println!("working");
            }
            thread::sleep(Duration::from_millis(40));
            tokio::task::yield_now().await;
        }
    });
    runtime.block_on(runtime.spawn(naps)).unwrap();
    eventually("a stall is reported", || !monitor.recent_stalls().is_empty());
    let causes: Vec<_> =
        monitor.recent_stalls().iter().map(|stall| (stall.cause(), stall.duration())).collect();
    assert!(causes.iter().any(|(cause, _)| *cause == Cause::Paused), "{causes:?}");
    for stall in monitor.recent_stalls() {
        assert!(is_host_delay(&stall), "{stall}");
    }
}
