//! Tests that the demo reports the line of each of its blocking routes, and of a deadlock in
//! progress.
#![allow(clippy::unwrap_used, missing_docs, unsafe_code)]
#![cfg(stacks_supported)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(120);

/// Each blocking route, and the file and a part of the line that stalls its worker thread.
const BLOCKING: [(&str, &str, &str); 6] = [
    ("/legacy/report", "examples/demo/blocking.rs", "thread::sleep("),
    ("/files/{name}", "examples/demo/backends.rs", "file.read_to_string("),
    ("/cache/{key}", "examples/demo/backends.rs", "self.entries.lock()"),
    ("/export", "examples/demo/work.rs", ""),
    ("/events", "examples/common/burn.rs", ""),
    (DEADLOCK, "examples/demo/backends.rs", "self.balances[number % 10].lock()"),
];
const DEADLOCK: &str = "/accounts/{from}/transfer/{to}";

/// A running demo, killed when the test ends.
struct Demo {
    process: Child,
    log: PathBuf,
}

impl Demo {
    fn start(folder: &Path, options: &[&str]) -> Self {
        let log = folder.join("reports.log");
        let _ = fs::remove_file(&log);
        // `cargo test --test demo` alone does not build the example.
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--example", "demo", "--all-features"]);
        cargo.args((!cfg!(debug_assertions)).then_some("--release"));
        assert!(cargo.status().unwrap().success());
        let target = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
        let mut demo = Command::new(target.join("examples/demo"));
        demo.args(["--port", "0", "--metrics-port", "0", "--log"]).arg(&log).args(options);
        let process = demo.env_remove("RUST_BACKTRACE").stdout(Stdio::null()).spawn().unwrap();
        Self { process, log }
    }

    /// Stops the demo with SIGINT, as Ctrl-C does.
    fn stop(&mut self) -> ExitStatus {
        let process = libc::pid_t::try_from(self.process.id()).unwrap();
        // SAFETY: The process is a child that has not been waited for, so its id is not reused.
        assert_eq!(unsafe { libc::kill(process, libc::SIGINT) }, 0);
        self.process.wait().unwrap()
    }

    /// Returns the reports of a route, one line each.
    fn reports(&self, route: &str) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let field = format!("route=\"{route}\" ");
        log.lines().filter(|report| report.contains(&field)).map(str::to_owned).collect()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the field `location` of each line of a file that contains a text.
fn locations(file: &str, text: &str) -> Vec<String> {
    let source = fs::read_to_string(file).unwrap();
    let matching = (1..).zip(source.lines()).filter(|(_, line)| line.contains(text));
    matching.map(|(number, _)| format!(" location={file}:{number} ")).collect()
}

#[test]
fn the_line_of_each_blocking_route_and_of_a_deadlock_is_reported() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let stacks = folder.join("demo.stacks");
    let stacks = stacks.to_str().unwrap();
    let mut demo = Demo::start(folder, &["--deadlock", "--collapsed-stacks", stacks]);
    let began = Instant::now();
    for (route, file, text) in BLOCKING {
        let lines = locations(file, text);
        let has_line = |report: &String| lines.iter().any(|line| report.contains(line));
        while !demo.reports(route).iter().any(has_line) {
            let reports = || demo.reports(route);
            assert!(began.elapsed() < DEADLINE, "{route} has none of {lines:?}: {:#?}", reports());
            thread::sleep(Duration::from_millis(50));
        }
    }
    let deadlock = demo.reports(DEADLOCK);
    assert!(deadlock.iter().all(|report| report.contains("in_progress=true")), "{deadlock:#?}");
    assert!(demo.stop().success());

    let stacks = fs::read_to_string(stacks).unwrap();
    for (route, file, _) in &BLOCKING[..5] {
        let mut stacks_of_route =
            stacks.lines().filter(|line| line.contains(&format!("GET {route}")));
        assert!(stacks_of_route.any(|line| line.contains(file)), "{route} is not in {stacks}");
    }
    for route in ["/health", "/users/{id}"] {
        let reports = demo.reports(route);
        assert!(!reports.iter().any(|report| report.contains("location=")), "{reports:#?}");
    }
}
