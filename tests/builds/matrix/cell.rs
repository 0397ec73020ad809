//! One cell of the matrix: a build, a kind of work, a state.

use std::fmt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::build::Build;
use crate::expected::{Expected, WORKS};

pub(crate) const STATES: [&str; 2] = ["traffic", "idle"];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) build: Build,
    pub(crate) work: &'static str,
    pub(crate) state: &'static str,
    pub(crate) expected: Expected,
}

/// Returns all cells of a build.
pub(crate) fn cells(build: Build) -> impl Iterator<Item = Cell> {
    WORKS
        .into_iter()
        .flat_map(move |(work, expected)| STATES.map(|state| Cell { build, work, state, expected }))
}

impl Cell {
    /// Runs the program, and returns what it printed.
    pub(crate) fn run(&self, program: &Path) -> Value {
        let mut command = Command::new(program);
        command.args([self.work, self.state]).args(self.build.depth.map(|value| value.to_string()));
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{self}: {stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {} / {}", self.build.name, self.work, self.state)
    }
}
