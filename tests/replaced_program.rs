//! A program whose file is replaced while it runs, as every deployment does, is reported with its
//! own lines.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]
#![cfg(stacks_supported)]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use self::support::{eventually, runtime};

const CHILD: &str = "TOWER_STALL_REPLACED";

#[inline(never)]
fn sleeps_in_the_old_program() {
    // Long enough to be sampled on a busy host, too.
    std::thread::sleep(Duration::from_millis(600));
    std::hint::black_box(());
}

/// Reports a stall once its input says so, and prints the line.
fn child() {
    let runtime = runtime(1);
    let monitor = support::monitor_for(&runtime);
    let mut input = String::new();
    eprintln!("ready");
    std::io::stdin().read_line(&mut input).unwrap();
    let task = monitor.instrument("nap", async { sleeps_in_the_old_program() });
    runtime.block_on(runtime.spawn(task)).unwrap();
    let stall = || monitor.recent_stalls().into_iter().find(|stall| !stall.is_in_progress());
    eventually("it is reported", || stall().is_some());
    eprintln!("{:#}", stall().unwrap());
}

#[test]
fn the_lines_of_a_replaced_program_are_its_own() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let dir = std::env::temp_dir().join(format!("tower-stall-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (program, new) = (dir.join("program"), dir.join("new"));
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut child = Command::new(&program)
        .args(["the_lines_of_a_replaced_program_are_its_own", "--exact", "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(output.by_ref().any(|line| line == "ready"));
    std::fs::write(&new, b"not even a program").unwrap();
    std::fs::rename(&new, &program).unwrap();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let report: Vec<_> = output.collect();
    assert!(child.wait().unwrap().success(), "{report:#?}");
    std::fs::remove_dir_all(&dir).unwrap();
    let is_here = |line: &String| {
        line.contains("sleeps_in_the_old_program") && line.contains("replaced_program.rs:")
    };
    assert!(report.iter().any(is_here), "{report:#?}");
}
