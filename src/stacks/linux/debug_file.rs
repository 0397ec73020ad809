//! Finds the file that holds the debug information of a program, if that has been split from it:
//! where debuggers look for it.

use std::fs::File;
use std::path::{Path, PathBuf};

use object::{Object, ReadCache};

/// Where debug information is installed.
const ROOT: &str = "/usr/lib/debug";

/// What is known of a program, or of the file with its debug information.
struct Described {
    has_debug_info: bool,
    build_id: Vec<u8>,
    /// The name of the file with the debug information.
    link: Option<PathBuf>,
}

/// Returns the file with the debug information of a program that has none itself. It must have the
/// same build id: a file of another build would yield wrong lines.
pub(super) fn find(program: &Path) -> Option<PathBuf> {
    find_below(Path::new(ROOT), program)
}

fn find_below(root: &Path, program: &Path) -> Option<PathBuf> {
    let described = Described::read(program).filter(|program| !program.has_debug_info)?;
    let is_right = |path: &PathBuf| {
        let found = Described::read(path);
        found.is_some_and(|found| found.has_debug_info && found.build_id == described.build_id)
    };
    described.candidates(root, program.parent()?).into_iter().find(is_right)
}

// === impl Described ===

impl Described {
    /// Returns `None` if the file has no build id.
    fn read(path: &Path) -> Option<Self> {
        let cache = ReadCache::new(File::open(path).ok()?);
        let file = object::File::parse(&cache).ok()?;
        let link = file.gnu_debuglink().ok().flatten();
        let link = link.and_then(|(name, _checksum)| std::str::from_utf8(name).ok());
        Some(Self {
            has_debug_info: file.section_by_name(".debug_info").is_some(),
            build_id: file.build_id().ok().flatten()?.to_vec(),
            link: link.map(PathBuf::from),
        })
    }

    /// Returns the paths at which the debug information of a program in a directory may be.
    fn candidates(&self, root: &Path, directory: &Path) -> Vec<PathBuf> {
        let id = hex(&self.build_id);
        let (first, rest) = id.split_at(2.min(id.len()));
        let by_id = root.join(".build-id").join(first).join(format!("{rest}.debug"));
        let installed = root.join(directory.strip_prefix("/").unwrap_or(directory));
        let by_link = self.link.iter().flat_map(|link| {
            [directory.join(link), directory.join(".debug").join(link), installed.join(link)]
        });
        std::iter::once(by_id).chain(by_link).collect()
    }
}

/// Returns bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: Described =
        Described { has_debug_info: false, build_id: Vec::new(), link: None };

    fn candidates(program: &Described) -> Vec<String> {
        let paths = program.candidates(Path::new("/debug"), Path::new("/opt/app"));
        paths.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn debug_information_is_looked_for_where_debuggers_do() {
        let by_id = Described { build_id: vec![0xab, 0xcd, 0x0f], ..PROGRAM };
        assert_eq!(candidates(&by_id), ["/debug/.build-id/ab/cd0f.debug"]);
        let by_link = Described { link: Some("app.debug".into()), ..by_id };
        let expected = [
            "/debug/.build-id/ab/cd0f.debug",
            "/opt/app/app.debug",
            "/opt/app/.debug/app.debug",
            "/debug/opt/app/app.debug",
        ];
        assert_eq!(candidates(&by_link), expected);
    }

    #[test]
    fn a_program_with_debug_information_needs_no_other_file() {
        assert_eq!(find(&std::env::current_exe().unwrap()), None);
        assert_eq!(find(Path::new("/dev/null")), None);
    }
}
