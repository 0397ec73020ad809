//! A test that modules use each other as ARCHITECTURE.md says, and in no other way.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Arrows = BTreeSet<(String, String)>;

/// One file of `src/`.
struct Source {
    /// From `src/` on, with slashes.
    path: String,
    text: String,
}

#[test]
fn each_arrow_is_in_the_table_and_the_table_has_no_other() -> Result<()> {
    let allowed = table(&fs::read_to_string(root().join("ARCHITECTURE.md"))?);
    let sources = sources()?;
    let used: Arrows = sources.iter().flat_map(Source::arrows).collect();
    assert!(used.len() > 20, "the test does not find the arrows: {used:?}");

    let news: Vec<_> = used.difference(&allowed).collect();
    assert!(news.is_empty(), "not in ARCHITECTURE.md: {news:?}");
    let gone: Vec<_> = allowed.difference(&used).collect();
    assert!(gone.is_empty(), "in ARCHITECTURE.md, but nobody uses it: {gone:?}");
    Ok(())
}

#[test]
fn no_module_stands_above_one_that_it_uses() -> Result<()> {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    let mut above = BTreeSet::new();
    for (module, uses) in rows(&page) {
        let early: Vec<_> = uses.iter().filter(|used| !above.contains(*used)).collect();
        assert!(early.is_empty(), "{module} uses {early:?}, which stand below it");
        above.insert(module);
    }
    Ok(())
}

#[test]
fn each_module_has_a_row() -> Result<()> {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    for module in sources()?.iter().filter_map(Source::module) {
        assert!(rows(&page).any(|(row, _)| row == module), "{module} has no row in ARCHITECTURE.md");
    }
    Ok(())
}

#[test]
fn metrics_tracing_and_unsafe_code_keep_to_their_places() -> Result<()> {
    for source in sources()? {
        let path = source.path.as_str();
        for line in source.code() {
            let metrics = has_word(line, "metrics::") || line.starts_with("use metrics");
            let in_metrics = path.starts_with("export/") || path.starts_with("prometheus/");
            assert!(!metrics || in_metrics, "{path} uses metrics: {line}");
            let tracing = has_word(line, "tracing::") || line.starts_with("use tracing");
            assert!(!tracing || path == "trace.rs", "{path} uses tracing: {line}");
        }
        for line in source.text.lines().filter(|line| !is_comment(line)) {
            let may = ["wake.rs", "os/linux.rs", "stacks/linux/signal.rs"].contains(&path)
                || path.starts_with("stacks/linux/signal/");
            assert!(!has_word(line, "unsafe ") || may, "{path} has unsafe code: {line}");
        }
    }
    Ok(())
}

#[test]
fn the_files_that_the_page_names_exist() -> Result<()> {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    let files = page.split('`').filter(|word| word.starts_with("src/") || word.starts_with("tests/"));
    for file in files {
        assert!(root().join(file).exists(), "ARCHITECTURE.md names {file}, which is not there");
    }
    Ok(())
}

#[test]
fn the_reader_of_code_skips_tests_and_comments() {
    let text = "use crate::a::B;\n// crate::c\n    #[cfg(test)]\n    Manual,\nfn f() { crate::d::g(); }\n\
                #[cfg(all(test, not(loom)))]\nmod tests {\n    use crate::e;\n}\n";
    let source = Source { path: "x/y.rs".into(), text: text.into() };
    let arrows: Vec<_> = source.arrows().collect();
    assert_eq!(arrows, [("x".into(), "a".into()), ("x".into(), "d".into())]);
    // Where the tests are a file of their own, it is that one which is skipped.
    let declared = "#[cfg(test)]\nmod tests;\nuse crate::a::B;\n".to_owned();
    let tests = Source { path: "x/tests.rs".into(), text: "use crate::e;\n".into() };
    assert_eq!(Source { path: "x/mod.rs".into(), text: declared }.arrows().count(), 1);
    assert_eq!(tests.arrows().count(), 0);
}

// === impl Source ===

impl Source {
    /// The module at the top that the file belongs to; `None` for `lib.rs`.
    fn module(&self) -> Option<&str> {
        let top = self.path.split('/').next()?.trim_end_matches(".rs");
        (top != "lib").then_some(top)
    }

    /// The lines that are neither comments nor a test's.
    fn code(&self) -> impl Iterator<Item = &str> {
        let lines: Vec<_> = self.text.lines().collect();
        let of_tests = |two: &[&str]| {
            let is_of_tests = two[0].starts_with("#[cfg(test)]") || two[0].starts_with("#[cfg(all(test");
            is_of_tests && two[1].starts_with("mod ") && two[1].ends_with('{')
        };
        let is_all_tests = self.path.ends_with("/tests.rs");
        let end = if is_all_tests { Some(0) } else { lines.windows(2).position(of_tests) };
        let end = end.unwrap_or(lines.len());
        lines.into_iter().take(end).filter(|line| !is_comment(line))
    }

    /// From this file's module to those that it names by `crate::`.
    fn arrows(&self) -> impl Iterator<Item = (String, String)> {
        let named = |line: &str| -> Vec<String> {
            let is_name = |c: &char| c.is_alphanumeric() || *c == '_';
            line.split("crate::").skip(1).map(|rest| rest.chars().take_while(is_name).collect()).collect()
        };
        self.module().into_iter().flat_map(move |from| {
            let others = self.code().flat_map(named).filter(move |to| to != from);
            others.map(|to| (from.to_owned(), to))
        })
    }
}

// === the page ===

fn table(page: &str) -> Arrows {
    let arrow = |(from, uses): (String, Vec<String>)| uses.into_iter().map(move |to| (from.clone(), to));
    rows(page).flat_map(arrow).collect()
}

/// The rows of the table of arrows: a module and those that it uses.
fn rows(page: &str) -> impl Iterator<Item = (String, Vec<String>)> {
    let section = page.split("\n## ").find(|section| section.starts_with("Allowed arrows")).unwrap_or_default();
    section.lines().filter_map(|line| {
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

/// Whether `word` is in the line, and not as the end of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let is_start = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| is_start(at))
}
