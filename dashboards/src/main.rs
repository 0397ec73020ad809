//! Writes the dashboards and the Kubernetes files.

use std::path::Path;
use std::{fs, io};

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in tower_stall_dashboards::files(root)? {
        fs::write(root.join(&file.path), &file.text)?;
    }
    Ok(())
}
