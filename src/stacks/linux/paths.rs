//! Where a source file lies, and the part of its path that a reader needs.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The path of the standard library's dependencies when it was built.
const STD_DEPENDENCIES: &str = "/rust/deps/";
/// The crates that the standard library consists of.
const STD_CRATES: [&str; 8] =
    ["std", "core", "alloc", "proc_macro", "test", "panic_unwind", "backtrace", "portable-simd"];

/// What a path shows of the code in the file. Each part begins with the crate's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    Std(&'a str),
    Dependency(&'a str),
    /// Written by a build script to `OUT_DIR`.
    Generated,
    /// The application's, or unknown.
    Other,
}

// === impl Place ===

impl<'a> Place<'a> {
    pub(super) fn of(file: &'a str) -> Self {
        Self::of_package(file, program_name())
    }

    /// `program` is the name of the program: a directory `NAME-1.2.3` in which it was built holds
    /// the application, unlike all others that are named so.
    fn of_package(file: &'a str, program: Option<&str>) -> Self {
        let after = |mark: &str| file.split_once(mark).map(|(_, rest)| rest);
        let in_checkout = |rest: &'a str| rest.splitn(3, '/').nth(2).unwrap_or(rest);
        let is_other = |package: &&str| Some(package_name(package)) != program;
        if let Some(part) = in_std(file) {
            Self::Std(part)
        } else if let Some(part) = file.strip_prefix(STD_DEPENDENCIES) {
            Self::Dependency(part)
        } else if let Some((_, part)) = after("/registry/src/").and_then(|it| it.split_once('/')) {
            Self::Dependency(part)
        } else if let Some(part) = after("/git/checkouts/") {
            Self::Dependency(in_checkout(part))
        } else if is_generated(file) {
            Self::Generated
        } else if let Some(part) = after("/vendor/").or_else(|| file.strip_prefix("vendor/")) {
            Self::Dependency(part)
        } else if let Some(part) = versioned(file).filter(is_other) {
            Self::Dependency(part)
        } else {
            Self::Other
        }
    }
}

/// Returns the part of a path of the standard library from the crate's name: `std/src/io/mod.rs`.
///
/// Its root depends on who built it: `/rustc/HASH`, the component `rust-src`, a distribution's
/// `/usr/src/rustc-1.85.0`, or anything, if it was remapped.
fn in_std(file: &str) -> Option<&str> {
    in_std_of(file, STD_ROOT.get().and_then(Option::as_deref))
}

/// `own_root` is the root of this program's standard library.
fn in_std_of<'a>(file: &'a str, own_root: Option<&str>) -> Option<&'a str> {
    let (root, part) = file.split_once("/library/")?;
    let (name, rest) = part.split_once('/')?;
    if !STD_CRATES.contains(&name) && name != "stdarch" {
        return None;
    }
    let is_rust = |name: &str| name.starts_with("rust");
    let mut dirs = root.rsplit('/');
    let is_known = dirs.next().is_some_and(is_rust) || dirs.next() == Some("rustc");
    let is_own = own_root == Some(root);
    ((is_known || is_own) && (rest.starts_with("src/") || rest.contains("/src/"))).then_some(part)
}

/// The root of this program's standard library.
static STD_ROOT: OnceLock<Option<String>> = OnceLock::new();

/// Learns the root of the standard library from the path of one of its files.
pub(super) fn set_std_root(file: impl FnOnce() -> Option<String>) {
    STD_ROOT.get_or_init(|| Some(file()?.split_once("/library/std/src/")?.0.to_owned()));
}

/// Returns the part of a path from a directory that is named like a package, `NAME-1.2.3`, and that
/// has a directory `src`.
fn versioned(file: &str) -> Option<&str> {
    let (package, _) = file.rsplit_once("/src/")?;
    let start = package.rfind('/').map_or(0, |slash| slash + 1);
    (package_name(&package[start..]).len() < package.len() - start).then(|| &file[start..])
}

/// Returns the name of the package that a file of a dependency is in.
pub(super) fn dependency(file: &str) -> Option<&str> {
    match Place::of(file) {
        Place::Dependency(part) => Some(package_name(part)),
        _ => None,
    }
}

/// Returns the name of a package without its version: `pg` of `pg-1.2.3/src/lib.rs`.
fn package_name(part: &str) -> &str {
    let package = part.split('/').next().unwrap_or_default();
    let is_version = |version: &str| {
        let mut numbers = version.splitn(3, '.');
        let mut is_number = || {
            numbers.next().is_some_and(|number| {
                number.bytes().next().is_some_and(|first| first.is_ascii_digit())
            })
        };
        is_number() && is_number() && is_number()
    };
    let mut dashes = package.match_indices('-').map(|(dash, _)| dash);
    let version = dashes.find(|dash| is_version(&package[dash + 1..]));
    version.map_or(package, |dash| &package[..dash])
}

/// Returns whether a file is in the directory `build/NAME-HASH/out` of a build script.
fn is_generated(file: &str) -> bool {
    let mut dirs = file.split('/').skip_while(|dir| *dir != "build").skip(1);
    let is_hashed = dirs.next().and_then(|dir| dir.rsplit_once('-')).is_some_and(|(_, hash)| {
        hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    is_hashed && dirs.next() == Some("out")
}

/// Returns the name of the program's file, without the hash that Cargo appends to that of a test.
pub(super) fn program_name() -> Option<&'static str> {
    static NAME: OnceLock<Option<String>> = OnceLock::new();
    let find = || {
        let path = std::env::current_exe().ok()?;
        let name = path.file_name()?.to_str()?;
        let name = name.strip_suffix(" (deleted)").unwrap_or(name);
        let is_hash =
            |hash: &str| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        let package = name.rsplit_once('-').filter(|(_, hash)| is_hash(hash));
        Some(package.map_or(name, |(package, _)| package).to_owned())
    };
    NAME.get_or_init(find).as_deref()
}

/// Shortens a path: in the standard library and in dependencies, to the part from the crate's name;
/// in the directory that was current when the first path was shortened, to the part below it.
pub(super) fn short_path(file: &str) -> String {
    static CURRENT_DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    let in_application = || {
        let current_dir = CURRENT_DIR
            .get_or_init(|| std::env::current_dir().ok().filter(|dir| dir.parent().is_some()));
        Path::new(file).strip_prefix(current_dir.as_ref()?).ok()?.to_str()
    };
    let short = match Place::of(file) {
        Place::Std(part) | Place::Dependency(part) => Some(part),
        Place::Generated | Place::Other => in_application(),
    };
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
    use proptest::prelude::*;

    use super::*;
    use crate::stacks::linux::test_symbols::{DEPENDENCY, STD};

    #[test]
    fn the_standard_library_is_recognized_by_what_it_is() {
        for root in [
            "/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860",
            "/usr/src/rustc-1.85.0",
            "/home/me/.rustup/toolchains/stable/lib/rustlib/src/rust",
        ] {
            let file = format!("{root}/library/std/src/thread/mod.rs");
            assert_eq!(Place::of(&file), Place::Std("std/src/thread/mod.rs"), "{root}");
        }
        let remapped = "/sysroot/library/alloc/src/vec/mod.rs";
        assert_eq!(in_std_of(remapped, Some("/sysroot")), Some("alloc/src/vec/mod.rs"));
        assert_eq!(in_std_of(remapped, Some("/other")), None);
        assert_eq!(Place::of("/home/me/shop/library/core/src/lib.rs"), Place::Other);
        assert_eq!(Place::of("/usr/src/rustc-1.85.0/library/shop/src/lib.rs"), Place::Other);
    }

    #[test]
    fn a_dependency_is_recognized_below_any_root() {
        for (file, part) in [
            ("/home/me/.cargo/registry/src/index-1f/pg-1.2.3/src/a.rs", "pg-1.2.3/src/a.rs"),
            ("/deps/pg-1.2.3/src/a.rs", "pg-1.2.3/src/a.rs"),
            ("/deps/my-pg-0.1.0-beta.1+c-2/src/a.rs", "my-pg-0.1.0-beta.1+c-2/src/a.rs"),
            ("pg-1.2.3/src/a.rs", "pg-1.2.3/src/a.rs"),
            ("/deps/serde-1.0.0-rc.1/src/a.rs", "serde-1.0.0-rc.1/src/a.rs"),
            ("/nix/store/abc-vendor/x-0.1.2/src/a.rs", "x-0.1.2/src/a.rs"),
            ("/home/me/app/vendor/pg/src/a.rs", "pg/src/a.rs"),
            ("vendor/pg/src/a.rs", "pg/src/a.rs"),
            ("/home/me/.cargo/git/checkouts/pg-1f/ab12/pg/src/a.rs", "pg/src/a.rs"),
            ("/rust/deps/hashbrown-0.16.1/src/raw.rs", "hashbrown-0.16.1/src/raw.rs"),
        ] {
            assert_eq!(Place::of(file), Place::Dependency(part), "{file}");
        }
        for file in [
            "/home/me/app/src/main.rs",
            "/home/me/app/crates/billing/src/lib.rs",
            "/home/me/other-1.2/src/lib.rs",
            "/src/app-1.2.3/crates/core/src/a.rs",
            "src/main.rs",
        ] {
            assert_eq!(Place::of(file), Place::Other, "{file}");
        }
    }

    #[test]
    fn an_application_may_be_built_in_a_directory_with_its_version() {
        let place = |file, program| Place::of_package(file, Some(program));
        assert_eq!(place("/build/shop-1.2.3/src/main.rs", "shop"), Place::Other);
        let pg = "/build/pg-1.2.3/src/lib.rs";
        assert_eq!(place(pg, "shop"), Place::Dependency("pg-1.2.3/src/lib.rs"));
        assert!(program_name().is_some_and(|name| name == "tower_stall"), "{:?}", program_name());
    }

    #[test]
    fn generated_code_is_recognized_in_any_target_directory() {
        let generated = "/tmp/out/debug/build/api-0123456789abcdef/out/api.rs";
        assert_eq!(Place::of(generated), Place::Generated);
        assert_eq!(Place::of("/home/me/build/out/src/main.rs"), Place::Other);
    }

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

    proptest! {
        #[test]
        fn property_any_path_is_classified_and_shortened(
            parts in proptest::collection::vec("(\\.{1,2}|rustc|library|std|src|registry|[a-z]{1,5}-[0-9.]{1,5}|.{0,6})", 0..9),
            root in "/?",
        ) {
            let file = root + &parts.join("/");
            let _ = (dependency(&file), in_std(&file), is_generated(&file));
            prop_assert!(short_path(&file).len() <= file.len() + '…'.len_utf8(), "{}", file);
        }
    }
}
