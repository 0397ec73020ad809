//! The builds of the program.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a report has no line.
const NO_LINES: &str = "no line: build with `debug = \"line-tables-only\"`";
const NO_SYMBOLS: &str = "no line: the binary is stripped of its symbols";

const LINES: (&str, &str) = ("DEBUG", "line-tables-only");
/// The default of Cargo, which also strips the debug information of the standard library.
const NO_DEBUG: (&str, &str) = ("DEBUG", "0");
const LTO: [(&str, &str); 3] = [("LTO", "fat"), ("PANIC", "abort"), ("CODEGEN_UNITS", "1")];

/// One way to build the program, and to run it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Build {
    pub(crate) name: &'static str,
    /// The name of a directory of artifacts: builds that only differ in the link share one.
    artifacts: &'static str,
    /// Settings of the profile `release`; `None` for the profile `dev`.
    release: Option<&'static [(&'static str, &'static str)]>,
    /// Arguments of rustc for the program alone.
    link: &'static [&'static str],
    sources: Sources,
    /// How many calls deep, and below how large a frame, the program blocks.
    pub(crate) depth: [u32; 2],
    /// The reason that is due instead of a line.
    pub(crate) missing: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sources {
    Registry,
    Vendored,
    /// As `Registry`, with all paths in the line tables replaced.
    Remapped,
}

const DEFAULT: Build = Build {
    name: "release",
    artifacts: "release",
    release: Some(&[NO_DEBUG]),
    link: &[],
    sources: Sources::Registry,
    depth: [0, 0],
    missing: Some(NO_LINES),
};

const WITH_LINES: Build = Build {
    name: "line-tables",
    artifacts: "line-tables",
    release: Some(&[LINES]),
    missing: None,
    ..DEFAULT
};

const STRIPPED: Build = Build {
    name: "strip-symbols",
    link: &["-Cstrip=symbols"],
    missing: Some(NO_SYMBOLS),
    ..DEFAULT
};

/// Those that every run of the tests can afford.
pub(crate) const SOME: [Build; 3] = [WITH_LINES, DEFAULT, STRIPPED];

pub(crate) const ALL: [Build; 15] = [
    Build { name: "dev", artifacts: "dev", release: None, missing: None, ..DEFAULT },
    WITH_LINES,
    DEFAULT,
    Build {
        name: "strip-debuginfo",
        link: &["-Cstrip=debuginfo"],
        missing: Some(NO_LINES),
        ..WITH_LINES
    },
    STRIPPED,
    Build {
        name: "compressed-zlib",
        link: &["-Clink-arg=-Wl,--compress-debug-sections=zlib"],
        ..WITH_LINES
    },
    Build {
        name: "compressed-zstd",
        link: &["-Clink-arg=-Wl,--compress-debug-sections=zstd"],
        ..WITH_LINES
    },
    Build {
        name: "split-debuginfo",
        artifacts: "split-debuginfo",
        release: Some(&[LINES, ("SPLIT_DEBUGINFO", "packed")]),
        ..WITH_LINES
    },
    Build { name: "vendored", artifacts: "vendored", sources: Sources::Vendored, ..WITH_LINES },
    Build { name: "remapped", artifacts: "remapped", sources: Sources::Remapped, ..WITH_LINES },
    Build {
        name: "lto-abort",
        artifacts: "lto-abort",
        release: Some(&[NO_DEBUG, LTO[0], LTO[1], LTO[2]]),
        ..DEFAULT
    },
    Build {
        name: "lto-abort-lines",
        artifacts: "lto-abort-lines",
        release: Some(&[LINES, LTO[0], LTO[1], LTO[2]]),
        ..WITH_LINES
    },
    Build { name: "600-calls", depth: [600, 0], ..WITH_LINES },
    Build { name: "128-KiB-stack", depth: [0, 128 << 10], ..WITH_LINES },
    Build { name: "release-600-calls-128-KiB", depth: [600, 128 << 10], ..DEFAULT },
];

impl Build {
    /// Builds the program, and returns its path.
    pub(crate) fn program(self) -> PathBuf {
        let target = target_dir().join(self.artifacts);
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root()).args(["rustc", "--quiet", "--package", "tower-stall-builds"]);
        cargo.args(["--bin", "blocking-program"]).arg("--target-dir").arg(&target);
        self.sources.configure(&mut cargo);
        if self.release.is_some() {
            cargo.arg("--release");
        }
        for (setting, value) in self.release.into_iter().flatten() {
            cargo.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
        }
        run(cargo.arg("--").args(self.link));
        let profile = if self.release.is_some() { "release" } else { "debug" };
        let built = target.join(profile).join("blocking-program");
        // The next build overwrites it.
        let program = target_dir().join(format!("blocking-program-{}", self.name));
        std::fs::copy(&built, &program).unwrap();
        let debug_information = built.with_extension("dwp");
        if debug_information.exists() {
            std::fs::copy(debug_information, program.with_extension("dwp")).unwrap();
        }
        program
    }
}

impl Sources {
    fn configure(self, cargo: &mut Command) {
        match self {
            Self::Registry => {}
            Self::Vendored => {
                let directory = format!("source.vendored.directory={:?}", vendor());
                cargo.args(["--config", "source.crates-io.replace-with='vendored'"]);
                cargo.args(["--config", &directory]);
            }
            Self::Remapped => {
                let remap =
                    |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
                let flags = [remap(&cargo_home(), "/deps"), remap(&root(), "/app")];
                cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
            }
        }
    }
}

/// Copies the sources of all dependencies, as a repository with vendored ones has them.
fn vendor() -> PathBuf {
    let directory = target_dir().join("vendor");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["vendor", "--quiet", "--locked"]).arg(&directory).current_dir(root());
    run(&mut cargo);
    directory
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}

/// Returns Cargo's directory, which has the sources of the registry.
fn cargo_home() -> PathBuf {
    let set = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| Some(std::env::home_dir()?.join(".cargo"))).unwrap()
}

/// Returns the directory of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Returns a directory inside that of the tests' artifacts.
fn target_dir() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("builds");
    std::fs::create_dir_all(&directory).unwrap();
    directory
}
