//! Tests that modules use each other as ARCHITECTURE.md says, and in no other way.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Pairs of a module and one that it uses.
type Arrows = BTreeSet<(String, String)>;

/// The places that may have unsafe code.
const UNSAFE: &[&str] = &[
    "request/waker/",
    "os/linux.rs",
    "os/posix.rs",
    "os/other/freebsd.rs",
    "os/other/macos.rs",
    "os/other/windows.rs",
    "stacks/linux/signal/",
];

/// One file of `src/`.
struct Source {
    /// Relative to `src/`, with slashes.
    path: String,
    text: String,
}

// === top-level modules ===

#[test]
fn the_table_lists_each_arrow_and_no_other() -> Result<()> {
    let allowed = table(&architecture()?);
    let sources = sources()?;
    let used: Arrows = sources.iter().flat_map(Source::top_level_arrows).collect();
    assert!(used.len() > 20, "the test does not find the arrows: {used:?}");

    let missing: Vec<_> = used.difference(&allowed).collect();
    assert!(missing.is_empty(), "not in ARCHITECTURE.md: {missing:?}");
    let unused: Vec<_> = allowed.difference(&used).collect();
    assert!(unused.is_empty(), "in ARCHITECTURE.md, but unused: {unused:?}");
    Ok(())
}

#[test]
fn each_module_uses_only_modules_of_rows_above_it() -> Result<()> {
    let page = architecture()?;
    let mut above = BTreeSet::new();
    for (module, uses) in rows(&page) {
        let below: Vec<_> = uses.iter().filter(|used| !above.contains(*used)).collect();
        assert!(below.is_empty(), "{module} uses {below:?}, which are below it");
        above.insert(module);
    }
    Ok(())
}

#[test]
fn each_module_has_a_row() -> Result<()> {
    let page = architecture()?;
    let modules: BTreeSet<_> =
        sources()?.iter().filter_map(|source| source.module().map(str::to_owned)).collect();
    for module in &modules {
        assert!(rows(&page).any(|(row, _)| row == *module), "{module} has no row");
    }
    assert!(modules.len() <= 18, "{} top-level modules", modules.len());
    Ok(())
}

#[test]
fn files_named_in_the_page_exist() -> Result<()> {
    let page = architecture()?;
    let files =
        page.split('`').filter(|word| word.starts_with("src/") || word.starts_with("tests/"));
    for file in files {
        assert!(root().join(file).exists(), "ARCHITECTURE.md names {file}, which does not exist");
    }
    Ok(())
}

// === siblings ===

#[test]
fn siblings_do_not_use_each_other_in_cycles() -> Result<()> {
    let folders = sibling_arrows(&sources()?);
    assert!(folders.values().map(Arrows::len).sum::<usize>() > 50, "{folders:?}");
    for (folder, arrows) in folders {
        let cycle = find_cycle(&arrows);
        assert!(cycle.is_none(), "a cycle in {folder}: {cycle:?}");
    }
    Ok(())
}

#[test]
fn a_cycle_between_siblings_is_found() {
    let sources = [
        (
            "a/mod.rs",
            "mod b;\nmod c;\nmod d;\npub(crate) use self::c::{C1, C2};\nuse self::d::D;\n",
        ),
        ("a/b.rs", "use super::{C2, Own};\n"),
        ("a/c.rs", "use super::d::{D, E};\n"),
        ("a/d/mod.rs", "use crate::a::Own;\n"),
        ("a/d/e.rs", "fn f() { super::super::b::g(); }\n"),
    ];
    let sources = sources.map(|(path, text)| Source { path: path.into(), text: text.into() });
    let folders = sibling_arrows(&sources);
    let expected = [("b", "c"), ("c", "d"), ("d", "b")];
    assert_eq!(folders["a"], expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
    assert!(find_cycle(&folders["a"]).is_some());
}

// === contents ===

#[test]
fn metrics_tracing_and_unsafe_code_are_in_their_places() -> Result<()> {
    for source in sources()? {
        let path = source.path.as_str();
        for line in source.code() {
            let metrics = has_word(line, "metrics::") || line.starts_with("use metrics");
            let may_use_metrics = path.starts_with("export/") || path.starts_with("prometheus/");
            assert!(!metrics || may_use_metrics, "{path} uses metrics: {line}");
            let tracing = has_word(line, "tracing::") || line.starts_with("use tracing");
            assert!(!tracing || path == "trace.rs", "{path} uses tracing: {line}");
        }
        let may_be_unsafe = UNSAFE.iter().any(|place| path.starts_with(place));
        for line in source.text.lines().filter(|line| !is_comment(line)) {
            assert!(!has_word(line, "unsafe ") || may_be_unsafe, "{path} has unsafe code: {line}");
        }
    }
    Ok(())
}

#[test]
fn the_poll_path_has_no_locks() -> Result<()> {
    for source in sources()? {
        let path = source.path.as_str();
        if !["layer/", "request/", "shard/"].iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        for line in source.code() {
            let lock = ["Mutex", "RwLock", "Condvar"].iter().find(|lock| has_word(line, lock));
            assert!(lock.is_none(), "{path} has a lock: {line}");
        }
    }
    Ok(())
}

#[test]
fn tests_and_comments_are_not_code() {
    let text = "use crate::a::B;\n// crate::c\n    #[cfg(test)]\n    Manual,\n\
                fn f() { crate::d::g(); }\n\
                #[cfg(all(test, not(loom)))]\npub(crate) mod tests {\n    use crate::e;\n}\n";
    let source = Source { path: "x/y.rs".into(), text: text.into() };
    let arrows: Vec<_> = source.top_level_arrows().collect();
    assert_eq!(arrows, [("x".into(), "a".into()), ("x".into(), "d".into())]);
    let declared = "#[cfg(test)]\nmod tests;\nuse crate::a::B;\n".to_owned();
    let tests = Source { path: "x/tests.rs".into(), text: "use crate::e;\n".into() };
    assert_eq!(Source { path: "x/mod.rs".into(), text: declared }.top_level_arrows().count(), 1);
    assert_eq!(tests.top_level_arrows().count(), 0);
}

// === impl Source ===

impl Source {
    /// Returns the top-level module that the file belongs to; `None` for `lib.rs`.
    fn module(&self) -> Option<&str> {
        let top = self.path.split('/').next()?.trim_end_matches(".rs");
        (top != "lib").then_some(top)
    }

    /// Returns the module path of the file, such as `["watchdog", "driver", "rescuer"]`.
    fn module_path(&self) -> Vec<&str> {
        let path = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        path.split('/').filter(|part| *part != "lib").collect()
    }

    /// Returns the lines that are neither comments nor parts of tests.
    fn code(&self) -> impl Iterator<Item = &str> {
        let lines: Vec<_> = self.text.lines().collect();
        let begins_tests = |pair: &[&str]| {
            let is_test =
                pair[0].starts_with("#[cfg(test)]") || pair[0].starts_with("#[cfg(all(test");
            let module = pair[1].trim_start_matches("pub(crate) ");
            is_test && module.starts_with("mod ") && module.ends_with('{')
        };
        let is_tests = ["/tests.rs", "/loom.rs"].iter().any(|end| self.path.ends_with(end))
            || self.path.contains("/tests/");
        let end = if is_tests { Some(0) } else { lines.windows(2).position(begins_tests) };
        let end = end.unwrap_or(lines.len());
        lines.into_iter().take(end).filter(|line| !is_comment(line))
    }

    /// Returns the arrows from this file's module to those that it names by `crate::`.
    fn top_level_arrows(&self) -> impl Iterator<Item = (String, String)> {
        self.module().into_iter().flat_map(move |from| {
            let used = self.code().flat_map(|line| names_after(line, "crate::"));
            used.filter(move |to| to != from).map(|to| (from.to_owned(), to))
        })
    }
}

// === siblings ===

/// Returns the arrows between the modules of each folder, by folder.
///
/// A module uses a sibling if it names it, by `super::` or by `crate::`, or if it names an item
/// that their parent re-exports from it.
fn sibling_arrows(sources: &[Source]) -> BTreeMap<String, Arrows> {
    let modules: BTreeSet<String> =
        sources.iter().map(|source| source.module_path().join("/")).collect();
    let reexports: BTreeMap<String, String> = sources
        .iter()
        .filter(|source| source.path.ends_with("mod.rs"))
        .flat_map(reexports)
        .collect();
    let mut folders: BTreeMap<String, Arrows> = BTreeMap::new();
    for source in sources {
        let from = source.module_path().join("/");
        for used in source.uses() {
            let used = reexports.get(&used).unwrap_or(&used);
            let Some((folder, from, to)) = siblings(&from, used) else { continue };
            if modules.contains(&join(&folder, &to)) {
                folders.entry(folder).or_default().insert((from, to));
            }
        }
    }
    folders
}

/// Returns the deepest common folder of two modules, and the two parts below it.
fn siblings(from: &str, to: &str) -> Option<(String, String, String)> {
    let (from, to): (Vec<_>, Vec<_>) = (from.split('/').collect(), to.split('/').collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let (from_part, to_part) = (from.get(common)?, to.get(common)?);
    (common > 0).then(|| (from[..common].join("/"), (*from_part).into(), (*to_part).into()))
}

/// Returns the items that a `mod.rs` re-exports, with the path of their module.
fn reexports(source: &Source) -> Vec<(String, String)> {
    let folder = source.module_path().join("/");
    let uses = source.uses_of("self::", &folder);
    uses.into_iter()
        .filter_map(|used| {
            let item = used.rsplit('/').next()?.to_owned();
            Some((join(&folder, &item), used))
        })
        .collect()
}

impl Source {
    /// Returns the paths that the file uses by `super::` and `crate::`, as paths from the root.
    fn uses(&self) -> Vec<String> {
        let path = self.module_path();
        let parent = path[..path.len().saturating_sub(1)].join("/");
        let grandparent = path[..path.len().saturating_sub(2)].join("/");
        let mut uses = self.uses_of("super::super::", &grandparent);
        uses.extend(self.uses_of("super::", &parent));
        uses.extend(self.uses_of("crate::", ""));
        uses
    }

    /// Returns the paths behind a prefix, relative to a folder; one for each item of a list.
    fn uses_of(&self, prefix: &str, folder: &str) -> Vec<String> {
        let code: String = self.code().map(|line| format!("{line}\n")).collect();
        let mut uses = Vec::new();
        for (at, _) in code.match_indices(prefix) {
            let is_longer = code[..at].ends_with("super::") || code[..at].ends_with("in ");
            if !is_longer && !code[at + prefix.len()..].starts_with("super::") {
                expand(&code[at + prefix.len()..], folder, &mut uses);
            }
        }
        uses
    }
}

/// Expands `a::b::{C, d::E}` to the paths `a/b/C` and `a/b/d/E` below a folder.
fn expand(text: &str, folder: &str, uses: &mut Vec<String>) {
    if let Some(list) = text.strip_prefix('{') {
        let mut depth = 0;
        let end = list.find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth < 0
        });
        for item in list[..end.unwrap_or(list.len())].split(',') {
            expand(item.trim(), folder, uses);
        }
        return;
    }
    let name: String = text.chars().take_while(is_name).collect();
    if name.is_empty() || name == "self" {
        return;
    }
    let path = join(folder, &name);
    match text[name.len()..].strip_prefix("::") {
        Some(rest) => expand(rest, &path, uses),
        None => uses.push(path),
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Returns the modules that remain when those that use no remaining one are removed.
fn find_cycle(arrows: &Arrows) -> Option<Arrows> {
    let mut rest = arrows.clone();
    loop {
        let users: BTreeSet<_> = rest.iter().map(|(from, _)| from.clone()).collect();
        let before = rest.len();
        rest.retain(|(_, to)| users.contains(to));
        if rest.len() == before {
            return (!rest.is_empty()).then_some(rest);
        }
    }
}

// === the page ===

fn architecture() -> Result<String> {
    Ok(fs::read_to_string(root().join("ARCHITECTURE.md"))?)
}

fn table(page: &str) -> Arrows {
    let arrows =
        |(from, uses): (String, Vec<String>)| uses.into_iter().map(move |to| (from.clone(), to));
    rows(page).flat_map(arrows).collect()
}

/// Returns the rows of the table of arrows: a module and those that it uses.
fn rows(page: &str) -> impl Iterator<Item = (String, Vec<String>)> {
    let section = page.split("\n## ").find(|section| section.starts_with("Allowed arrows"));
    section.unwrap_or_default().lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let module = cells.next()?.trim().trim_end_matches('`').to_owned();
        let uses = cells.next()?.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Some((module, uses))
    })
}

// === files ===

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    read(&root().join("src"), "", &mut sources)?;
    assert!(!sources.is_empty());
    Ok(sources)
}

fn read(folder: &Path, prefix: &str, sources: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            read(&entry.path(), &format!("{path}/"), sources)?;
        } else if path.ends_with(".rs") {
            sources.push(Source { path, text: fs::read_to_string(entry.path())? });
        }
    }
    Ok(())
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn is_name(c: &char) -> bool {
    c.is_alphanumeric() || *c == '_'
}

/// Returns the names that follow a prefix in a line.
fn names_after(line: &str, prefix: &str) -> Vec<String> {
    line.split(prefix).skip(1).map(|rest| rest.chars().take_while(is_name).collect()).collect()
}

/// Returns whether a word is in the line, and not as the end of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let is_start = |at: usize| !line[..at].ends_with(|c: char| is_name(&c));
    line.match_indices(word).any(|(at, _)| is_start(at))
}
