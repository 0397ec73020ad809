//! Grafana dashboards and Kubernetes files of tower-stall, made from one source.
//!
//! `./x dashboards` writes them; a test fails where a file is not what it would write. The rules under `rules/` are kept by hand.

mod dashboard;
mod instance;
mod kubernetes;
mod links;
mod machine;
mod overview;
mod panel;
mod route;
mod stolen_table;
mod variable;

use std::path::{Path, PathBuf};

use self::dashboard::Dashboard;

/// One file that is written, relative to this directory.
#[derive(Debug)]
pub struct File {
    /// Where it is kept.
    pub path: PathBuf,
    /// What it holds.
    pub text: String,
}

/// All files that are written, given the rules, which are read from `rules/` under `root`.
///
/// # Errors
///
/// If the rules cannot be read.
pub fn files(root: &Path) -> std::io::Result<Vec<File>> {
    let dashboards = [overview::dashboard(), route::dashboard(), instance::dashboard()];
    let mut files: Vec<_> = dashboards.iter().map(Dashboard::file).collect();
    let kubernetes = kubernetes::files(root, &files)?;
    files.extend(kubernetes);
    Ok(files)
}
