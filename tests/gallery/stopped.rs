//! A process that is stopped and goes on later: nobody's fault.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tower_stall::Cause;

const CHILD: &str = "TOWER_STALL_ALONE";

#[test]
fn a_stopped_process_blames_nobody() {
    if std::env::var_os(CHILD).is_some() {
        return work();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["stopped::a_stopped_process_blames_nobody", "--exact", "--nocapture"]).env(CHILD, "1");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().contains("working")).unwrap().unwrap();
    let process = libc::pid_t::try_from(child.id()).unwrap();
    for signal in [libc::SIGSTOP, libc::SIGCONT] {
        thread::sleep(Duration::from_millis(600));
        // SAFETY: a signal to the child that has not been waited for.
        assert_eq!(unsafe { libc::kill(process, signal) }, 0);
    }
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{rest:#?}");
}

/// Polls of 40 ms, far below the threshold, one after the other.
fn work() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let builder = super::support::builder().runtime(runtime.handle().clone());
    let monitor = builder.stall_threshold(Duration::from_millis(250)).spawn().unwrap();
    println!("working");
    let began = Instant::now();
    let naps = monitor.instrument("naps", async move {
        while began.elapsed() < Duration::from_secs(3) {
            thread::sleep(Duration::from_millis(40));
            tokio::task::yield_now().await;
        }
    });
    runtime.block_on(runtime.spawn(naps)).unwrap();
    super::eventually("a stall is told", || !monitor.recent_stalls().is_empty());
    let causes: Vec<_> = monitor.recent_stalls().iter().map(|stall| (stall.cause(), stall.duration())).collect();
    assert!(causes.iter().any(|(cause, _)| *cause == Cause::Paused), "{causes:?}");
    for stall in monitor.recent_stalls() {
        assert!(matches!(stall.cause(), Cause::Paused | Cause::Preempted), "{stall}");
    }
}
