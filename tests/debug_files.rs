//! A program whose debug information has been split from it: its lines are found where debuggers
//! look for them, or on another machine.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]
#![cfg(stacks_supported)]

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tower_stall::Stall;

use self::support::{child_command, ended, eventually, is_child, runtime};

const LINE: u32 = line!() + 5;

#[inline(never)]
fn sleeps_in_a_stripped_program() {
    // Long enough to be sampled on a busy host, too.
    std::thread::sleep(Duration::from_millis(600));
    std::hint::black_box(());
}

/// Prints the report of a stall.
fn child() {
    let runtime = runtime(1);
    let monitor = support::monitor_for(&runtime);
    let task = monitor.instrument("nap", async { sleeps_in_a_stripped_program() });
    runtime.block_on(runtime.spawn(task)).unwrap();
    // The first stack may be symbolized later than the report is due.
    let is_complete =
        |stall: &Stall| !stall.missing().is_some_and(|why| why.starts_with("no line yet"));
    eventually("it is reported", || ended(&monitor).first().is_some_and(is_complete));
    eprintln!("{:#}", ended(&monitor)[0]);
}

/// A copy of this program without symbols, and the file with its debug information.
struct Stripped {
    directory: PathBuf,
    program: PathBuf,
    debug_file: PathBuf,
}

impl Stripped {
    fn new(test: &str) -> Self {
        let directory = format!("tower-stall-{test}-{}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        let (program, debug_file) = (directory.join("service"), directory.join("service.debug"));
        std::fs::create_dir_all(&directory).unwrap();
        let this = std::env::current_exe().unwrap();
        output(Command::new("objcopy").arg("--only-keep-debug").arg(&this).arg(&debug_file));
        let link = format!("--add-gnu-debuglink={}", debug_file.display());
        output(Command::new("objcopy").arg("--strip-all").arg(link).arg(&this).arg(&program));
        Self { directory, program, debug_file }
    }

    /// Runs one test of the copy as a child process, and returns the report that it prints.
    fn report(&self, test: &str) -> String {
        let template = child_command(test);
        let mut command = Command::new(&self.program);
        command.args(template.get_args());
        command.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
        output(&mut command).1
    }
}

impl Drop for Stripped {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.directory).unwrap();
    }
}

/// Runs a command, and returns what it prints to its outputs.
#[track_caller]
fn output(command: &mut Command) -> (String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {stdout}{stderr}");
    (stdout, stderr)
}

#[test]
fn debug_information_beside_the_program_is_found() {
    if is_child() {
        return child();
    }
    let stripped = Stripped::new("beside");
    let report = stripped.report("debug_information_beside_the_program_is_found");
    let line = format!("debug_files.rs:{LINE}");
    assert!(report.contains(&line) && report.contains("sleeps_in_a_stripped_program"), "{report}");
}

/// The documented way, with the names that the documentation has.
#[test]
fn addresses_are_resolved_on_another_machine() {
    const ADDR2LINE: &str = "addr2line -e service.debug -f -i -C";
    let documentation = include_str!("../src/docs/reports.md");
    assert!(documentation.contains(ADDR2LINE), "it is not the documented command");
    if is_child() {
        return child();
    }
    let stripped = Stripped::new("elsewhere");
    let elsewhere = stripped.directory.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::rename(&stripped.debug_file, elsewhere.join("service.debug")).unwrap();
    let report = stripped.report("addresses_are_resolved_on_another_machine");
    assert!(!report.contains("debug_files.rs"), "the program is stripped: {report}");

    let words: Vec<_> = ADDR2LINE.split(' ').collect();
    let addresses = report.split_whitespace().filter_map(|word| word.strip_prefix("service+"));
    let mut addr2line = Command::new(words[0]);
    addr2line.args(&words[1..]).args(addresses).current_dir(&elsewhere);
    let (lines, _) = output(&mut addr2line);
    let is_sleep = |pair: &[&str]| {
        pair[0].contains("sleeps_in_a_stripped_program")
            && pair[1].contains(&format!("debug_files.rs:{LINE}"))
    };
    let lines: Vec<_> = lines.lines().collect();
    assert!(lines.chunks_exact(2).any(is_sleep), "{report}{lines:#?}");

    let (notes, _) = output(Command::new("readelf").arg("-n").arg(elsewhere.join("service.debug")));
    let build_id = notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).unwrap();
    assert!(report.contains(&format!("(addresses of the build {build_id})")), "{report}");
}
