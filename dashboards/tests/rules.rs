//! `promtool`'s own checks of the rules, and its tests of them, where it is installed.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support;

use std::io::ErrorKind;
use std::process::Command;

use support::here;

/// Runs `promtool` in `rules/`. Debian's has no way to say which versions it takes, so any will do: 2.42 and 3.5 both pass.
fn promtool(arguments: &[&str]) {
    let promtool = std::env::var_os("PROMTOOL").unwrap_or_else(|| "promtool".into());
    match Command::new(promtool).args(arguments).current_dir(here().join("rules")).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            assert!(std::env::var_os("CI").is_none(), "promtool is not installed");
            eprintln!("skipped, as promtool is not installed: {arguments:?}");
        }
        run => {
            let run = run.unwrap();
            let told = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
            assert!(run.status.success(), "{told}");
        }
    }
}

#[test]
fn the_rules_are_rules() {
    promtool(&["check", "rules", "recording.yaml", "alerts.yaml"]);
}

#[test]
fn each_alert_fires_when_it_should_and_only_then() {
    let tests = std::fs::read_dir(here().join("rules/tests")).unwrap();
    let tests: Vec<_> = tests.map(|entry| entry.unwrap().path().display().to_string()).collect();
    let arguments: Vec<_> = ["test", "rules"].into_iter().chain(tests.iter().map(String::as_str)).collect();
    promtool(&arguments);
}
