//! A test that the demo names the lines of its own bad routes, and the deadlock while it lasts.
#![allow(clippy::unwrap_used, missing_docs, unsafe_code)]
#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(120);

/// Each bad route, and the line that holds its worker, by a part of that line.
const SICK: [(&str, &str, &str); 6] = [
    ("/legacy/report", "examples/demo/sick.rs", "thread::sleep("),
    ("/files/{name}", "examples/demo/backends.rs", "file.read_to_string("),
    ("/cache/{key}", "examples/demo/backends.rs", "self.entries.lock()"),
    ("/export", "examples/demo/work.rs", ""),
    ("/events", "examples/common/burn.rs", ""),
    ("/accounts/{from}/transfer/{to}", "examples/demo/backends.rs", "self.balances[number % 10].lock()"),
];

/// The demo under way, stopped when the test ends.
struct Demo {
    process: Child,
    log: PathBuf,
}

impl Demo {
    fn start(folder: &Path, options: &[&str]) -> Self {
        let log = folder.join("reports.log");
        let _ = fs::remove_file(&log);
        // Which also builds it, where somebody runs this test alone.
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

    /// As by Ctrl-C.
    fn end(&mut self) -> ExitStatus {
        let process = libc::pid_t::try_from(self.process.id()).unwrap();
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(process, libc::SIGINT) }, 0);
        self.process.wait().unwrap()
    }

    /// The reports of a route, a line each.
    fn reports(&self, route: &str) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let of_route = |report: &&str| report.contains(&format!("route=\"{route}\" "));
        log.lines().filter(of_route).map(str::to_owned).collect()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The lines of a file that contain a text.
fn lines_with(file: &str, text: &str) -> Vec<String> {
    let source = fs::read_to_string(file).unwrap();
    let numbered = (1..).zip(source.lines());
    let found = numbered.filter(|(_, line)| line.contains(text));
    found.map(|(number, _)| format!(" location={file}:{number} ")).collect()
}

#[test]
fn each_bad_route_has_its_line_and_the_deadlock_while_it_lasts() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let graph = folder.join("demo.svg");
    let graph = graph.to_str().unwrap();
    let mut demo = Demo::start(folder, &["--deadlock", "--flamegraph", graph]);
    let began = Instant::now();
    for (route, file, text) in SICK {
        let lines = lines_with(file, text);
        let is_named = |report: &String| lines.iter().any(|line| report.contains(line));
        while !demo.reports(route).iter().any(is_named) {
            assert!(began.elapsed() < DEADLINE, "{route} has none of {lines:?}: {:#?}", demo.reports(route));
            thread::sleep(Duration::from_millis(50));
        }
    }
    let deadlock = demo.reports(SICK[5].0);
    assert!(deadlock.iter().all(|report| report.contains("in_progress=true")), "{deadlock:#?}");
    assert!(demo.end().success());
    let graph = fs::read_to_string(graph).unwrap();
    for (route, file, _) in &SICK[..5] {
        assert!(graph.contains(&format!("GET {route}")) && graph.contains(file), "{route} is not in the graph");
    }
    for route in ["/health", "/users/{id}"] {
        assert!(!demo.reports(route).iter().any(|report| report.contains("location=")), "{:#?}", demo.reports(route));
    }
}
