//! What is reported must not depend on how the program was built: a matrix of builds, of work that
//! blocks, and of states of the process.
//!
//! `./x builds` runs all of it, and prints a table.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]
#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]

mod build;
mod cell;
mod expected;
#[path = "../../support/scrape.rs"]
mod scrape;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use self::build::Build;
use self::cell::{Cell, STATES, cells};

/// How many programs run at once. Most of them sleep.
const PARALLEL: usize = 3;

#[test]
fn reports_are_right_in_a_release_build_with_and_without_lines() {
    check(&build::SOME);
}

#[test]
#[ignore = "builds the program in 15 ways; see `./x builds`"]
fn reports_are_right_in_every_build() {
    check(&build::ALL);
}

fn check(builds: &[Build]) {
    let programs: Vec<_> = builds.iter().map(|build| build.program()).collect();
    let of_build = |(build, program): (&Build, PathBuf)| {
        cells(*build).map(move |cell| (cell, program.clone())).collect::<Vec<_>>()
    };
    let work: Vec<_> = builds.iter().zip(programs).flat_map(of_build).collect();
    let (queue, failures) = (Mutex::new(work.iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some((cell, program)) = { queue.lock().unwrap().next() } {
                    let faults = faults(cell, program);
                    if !faults.is_empty() {
                        failures.lock().unwrap().push((*cell, faults));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    print_table(builds, &failures);
    let texts: Vec<_> =
        failures.iter().map(|(cell, faults)| format!("{cell}: {}", faults.join("; "))).collect();
    assert!(texts.is_empty(), "{}", texts.join("\n"));
}

/// Runs a cell, and returns what is wrong.
///
/// On a busy host, where no worker is idle, a task that computes may be taken for a batch of short
/// ones, which is not reported: see the limitations. Such a cell has three attempts.
fn faults(cell: &Cell, program: &Path) -> Vec<String> {
    let attempts = if cell.work == "computing-task" { 3 } else { 1 };
    let mut faults = Vec::new();
    for _ in 0..attempts {
        faults = expected::faults(cell, &cell.run(program));
        if faults.is_empty() {
            break;
        }
    }
    faults
}

/// Prints a row for each kind of work and a column for each build: whether it is right with traffic,
/// and in an idle process.
fn print_table(builds: &[Build], failures: &[(Cell, Vec<String>)]) {
    for (column, build) in builds.iter().enumerate() {
        println!("{:>2} {}", column + 1, build.name);
    }
    for cell in cells(builds[0]).filter(|cell| cell.state == STATES[0]) {
        let mark = |build: &Build| {
            let is_right = |state: &&str| {
                !failures.iter().any(|(failed, _)| {
                    (failed.build.name, failed.work, failed.state) == (build.name, cell.work, state)
                })
            };
            STATES.iter().map(|state| if is_right(state) { '+' } else { '-' }).collect::<String>()
        };
        let marks: Vec<_> = builds.iter().map(mark).collect();
        println!("{:<24} {}", cell.work, marks.join(" "));
    }
}
