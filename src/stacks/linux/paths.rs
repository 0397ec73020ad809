//! Shortens the paths of source files.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The path of the standard library's dependencies when it was built.
const STD_DEPENDENCIES: &str = "/rust/deps/";
/// The crates of the standard library.
const STD_CRATES: [&str; 5] = ["std", "core", "alloc", "proc_macro", "test"];

/// Shortens a path: in the standard library and in dependencies, to the part from the crate's name;
/// in the directory that was current when the first path was shortened, to the part below it.
pub(super) fn short_path(file: &str) -> String {
    static CURRENT_DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    let in_application = || {
        let current_dir = CURRENT_DIR
            .get_or_init(|| std::env::current_dir().ok().filter(|dir| dir.parent().is_some()));
        Path::new(file).strip_prefix(current_dir.as_ref()?).ok()?.to_str()
    };
    let short = in_std(file).or_else(|| in_dependency(file)).or_else(in_application);
    without_parent_dirs(short.unwrap_or(file))
}

/// Returns the part from the crate's name of a path in the standard library, wherever its sources
/// were when it was built: a distribution has them elsewhere than the Rust project.
pub(super) fn in_std(file: &str) -> Option<&str> {
    let (_, rest) = file.rsplit_once("/library/")?;
    let (name, inside) = rest.split_once('/')?;
    let is_std = file.contains("/rustc/") || file.contains("/lib/rustlib/src/rust/");
    (is_std || STD_CRATES.contains(&name) && inside.starts_with("src/")).then_some(rest)
}

/// Returns the part from the crate's name of a path in a dependency: below a directory of Cargo, or
/// in a directory that is named after a package and its version, whatever its root.
pub(super) fn in_dependency(file: &str) -> Option<&str> {
    let after = |mark: &str| file.split_once(mark).map(|(_, rest)| rest);
    let in_registry = || after("/registry/src/").and_then(|rest| Some(rest.split_once('/')?.1));
    let in_checkout = || after("/git/checkouts/");
    let in_vendor = || after("/vendor/");
    let in_std = file.strip_prefix(STD_DEPENDENCIES);
    in_std
        .or_else(in_registry)
        .or_else(in_checkout)
        .or_else(|| in_package_dir(file))
        .or_else(in_vendor)
}

/// Returns the part of a path from a directory such as `hyper-1.6.0`, directly above `src`. The
/// program's own package may be in such a directory, too, if it was built from an archive.
fn in_package_dir(file: &str) -> Option<&str> {
    let before_src = &file[..file.find("/src/")?];
    let start = before_src.rfind('/')? + 1;
    let package = &before_src[start..];
    let (name, _) = package.match_indices('-').find_map(|(at, _)| {
        let (name, version) = (&package[..at], &package[at + 1..]);
        is_version(version).then_some((name, version))
    })?;
    (!is_program(name)).then(|| &file[start..])
}

/// Returns whether a text begins with three numbers, as the version of a package does.
fn is_version(text: &str) -> bool {
    let release = text.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = release.split('.');
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    numbers.by_ref().take(3).filter(|part| is_number(part)).count() == 3 && numbers.next().is_none()
}

/// Returns whether a package has the name of the program.
fn is_program(package: &str) -> bool {
    static PROGRAM: OnceLock<Option<String>> = OnceLock::new();
    let name = || Some(std::env::current_exe().ok()?.file_stem()?.to_str()?.replace('-', "_"));
    PROGRAM.get_or_init(name).as_deref() == Some(&package.replace('-', "_"))
}

/// Returns whether a path is that of code which a build script has generated.
pub(super) fn is_generated(file: &str) -> bool {
    let Some((before, _)) = file.split_once("/out/") else { return false };
    let Some((before, package)) = before.rsplit_once('/') else { return false };
    let hash = package.rsplit_once('-').map_or("", |(_, hash)| hash);
    let is_hash = hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash && before.ends_with("/build")
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
        assert_eq!(short_path("/deps/pg-1.0.0/src/lib.rs"), "pg-1.0.0/src/lib.rs");
        assert_eq!(short_path("/app/vendor/pg/src/lib.rs"), "pg/src/lib.rs");
        assert_eq!(
            short_path("/usr/src/rustc-1.85.0/library/std/src/io/mod.rs"),
            "std/src/io/mod.rs"
        );
        assert_eq!(short_path("examples/demo/../common/burn.rs"), "examples/common/burn.rs");
        assert_eq!(short_path("/a/b/../../c.rs"), "/c.rs");
        assert_eq!(short_path("../../c.rs"), "../../c.rs");
    }
}
