//! Shortens the paths of source files.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The path of the standard library's dependencies when it was built.
pub(super) const STD_DEPENDENCIES: &str = "/rust/deps/";

/// Shortens a path: in the standard library and in dependencies, to the part from the crate's name;
/// in the directory that was current when the first path was shortened, to the part below it.
pub(super) fn short_path(file: &str) -> String {
    static CURRENT_DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    let after = |mark: &str| file.split_once(mark).map(|(_, rest)| rest);
    let in_std = after("/rustc/").and_then(|rest| Some(rest.split_once("/library/")?.1));
    let in_dependency = || after("/registry/src/").and_then(|rest| Some(rest.split_once('/')?.1));
    let in_std_dependency = || file.strip_prefix(STD_DEPENDENCIES);
    let in_application = || {
        let current_dir = CURRENT_DIR
            .get_or_init(|| std::env::current_dir().ok().filter(|dir| dir.parent().is_some()));
        Path::new(file).strip_prefix(current_dir.as_ref()?).ok()?.to_str()
    };
    let short = in_std.or_else(in_dependency).or_else(in_std_dependency).or_else(in_application);
    without_parent_dirs(short.unwrap_or(file))
}

/// Replaces `a/../b` by `b`: the attribute `path` of a module produces such paths.
fn without_parent_dirs(file: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in file.split('/') {
        match (part, parts.last()) {
            ("..", Some(&last)) if !matches!(last, "" | "." | "..") => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::linux::test_symbols::{DEPENDENCY, STD};

    #[test]
    fn paths_are_shortened() {
        assert_eq!(short_path(&format!("{STD}std/src/io/mod.rs")), "std/src/io/mod.rs");
        assert_eq!(short_path(&format!("{DEPENDENCY}pg-1.0.0/src/lib.rs")), "pg-1.0.0/src/lib.rs");
        assert_eq!(
            short_path(&format!("{}/src/main.rs", std::env::current_dir().unwrap().display())),
            "src/main.rs"
        );
        assert_eq!(short_path("/opt/src/main.rs"), "/opt/src/main.rs");
        assert_eq!(short_path("examples/demo/../common/burn.rs"), "examples/common/burn.rs");
        assert_eq!(short_path("/a/b/../../c.rs"), "/c.rs");
        assert_eq!(short_path("../../c.rs"), "../../c.rs");
    }
}
