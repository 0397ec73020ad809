//! Generates the Grafana dashboards and Kubernetes files of tower-stall.
//!
//! `./x dashboards` writes them, and a test fails if a file differs from what it would write. The
//! rules under `rules/` are maintained by hand.

mod dashboard;
mod delays;
mod host_delay;
mod instance;
mod kubernetes;
mod links;
mod longest_stall;
mod overview;
mod panel;
mod promql;
mod route;
mod stall_split;
mod stall_tables;
mod variable;

use std::path::{Path, PathBuf};

use self::dashboard::Dashboard;

/// A generated file.
#[derive(Debug)]
pub struct File {
    /// Path relative to the root of this crate.
    pub path: PathBuf,
    /// Contents of the file.
    pub text: String,
}

/// Returns all generated files. Reads the rules from `rules/` under `root`.
///
/// # Errors
///
/// Returns an error if the rules cannot be read.
pub fn files(root: &Path) -> std::io::Result<Vec<File>> {
    let dashboards = [overview::dashboard(), route::dashboard(), instance::dashboard()];
    let mut files: Vec<_> = dashboards.iter().map(Dashboard::file).collect();
    let kubernetes = kubernetes::files(root, &files)?;
    files.extend(kubernetes);
    Ok(files)
}
