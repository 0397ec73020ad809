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
    stop_child("stopped::a_stopped_process_is_a_host_delay");
}

#[test]
fn a_stop_inside_a_blocking_handler_is_kept_apart_from_its_own_time() {
    if is_child() {
        return block();
    }
    stop_child("stopped::a_stop_inside_a_blocking_handler_is_kept_apart_from_its_own_time");
}

/// Runs a test in a child, and stops the child for a while once it is working.
fn stop_child(test: &str) {
    let mut command = child_command(test);
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

/// Blocks in one poll, before and after the stop, each time for several thresholds.
fn block() {
    let runtime = runtime(1);
    let monitor = builder_for(&runtime).spawn().unwrap();
    let handler = monitor.instrument("blocks", async {
        thread::sleep(Duration::from_millis(200));
        println!("working");
        // The parent stops the process in one of these.
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(40));
        }
    });
    runtime.block_on(runtime.spawn(handler)).unwrap();
    let reported = || monitor.recent_stalls().into_iter().find(|stall| !stall.is_in_progress());
    eventually("the stall is reported", || reported().is_some());
    let stall = reported().unwrap();
    let own = stall.cpu_time() + stall.off_cpu_time();
    let host = stall.run_queue_time() + stall.stopped_time();
    assert_eq!(stall.cause(), Cause::Blocked, "{stall}");
    assert_eq!(own + host, stall.duration(), "{stall}");
    // The stop of 600 ms, without what it shares with a pause of the watchdog.
    assert!(stall.stopped_time() >= Duration::from_millis(500), "{stall}");
    assert!(own >= Duration::from_millis(200), "{stall}");
}
