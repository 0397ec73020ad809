//! Runs `promtool`'s checks and unit tests of the rules, if it is installed.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support;

use std::io::ErrorKind;
use std::process::Command;

use support::here;

/// Runs `promtool` in `rules/`. Any version is accepted; the rules pass with 2.42 and 3.5.
fn promtool(arguments: &[&str]) {
    let promtool = std::env::var_os("PROMTOOL").unwrap_or_else(|| "promtool".into());
    match Command::new(promtool).args(arguments).current_dir(here().join("rules")).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            assert!(std::env::var_os("CI").is_none(), "promtool is not installed");
            eprintln!("skipped, because promtool is not installed: {arguments:?}");
        }
        result => {
            let output = result.unwrap();
            let text =
                String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{text}");
        }
    }
}

#[test]
fn rules_are_valid() {
    promtool(&["check", "rules", "recording.yaml", "alerts.yaml"]);
}

#[test]
fn rules_pass_their_unit_tests() {
    let tests = std::fs::read_dir(here().join("rules/tests")).unwrap();
    let tests: Vec<_> = tests.map(|entry| entry.unwrap().path().display().to_string()).collect();
    let arguments: Vec<_> =
        ["test", "rules"].into_iter().chain(tests.iter().map(String::as_str)).collect();
    promtool(&arguments);
}
