//! Writes measurements to `BENCHMARKS.md`. Each part rewrites the text between its own markers.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::Result;

/// The line length of `BENCHMARKS.md`.
const COLUMNS: usize = 100;

/// A Markdown table.
pub struct Table {
    text: String,
}

impl Table {
    pub fn new(columns: &[&str]) -> Self {
        let mut table = Self { text: String::new() };
        table.row(columns);
        let mut alignment = vec!["---:"; columns.len()];
        alignment[0] = "---";
        table.row(&alignment);
        table
    }

    pub fn row(&mut self, cells: &[impl AsRef<str>]) {
        let cells: Vec<_> = cells.iter().map(AsRef::as_ref).collect();
        self.text += &format!("| {} |\n", cells.join(" | "));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// Replaces the section of `part` with `text` and a description of the machine, and updates the
/// list of versions.
pub fn write(part: &str, text: &str) -> Result<()> {
    let page = fs::read_to_string(in_repository("BENCHMARKS.md"))?;
    let page = replace_section(&page, part, &format!("{}\n\n{}", text.trim_end(), environment()))?;
    let lock = fs::read_to_string(in_repository("Cargo.lock"))?;
    let page = replace_section(&page, "versions", &wrap(&versions(&lock)))?;
    fs::write(in_repository("BENCHMARKS.md"), page)?;
    Ok(())
}

fn in_repository(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

fn replace_section(page: &str, name: &str, text: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let (before, rest) = page.split_once(&begin).ok_or_else(|| format!("missing {begin}"))?;
    let (_, after) = rest.split_once(&end).ok_or_else(|| format!("missing {end}"))?;
    Ok(format!("{before}{begin}\n{text}{end}{after}"))
}

/// Returns the locked versions of the compared crates and of their common dependencies.
fn versions(lock: &str) -> String {
    const CRATES: [&str; 15] = [
        "axum",
        "hyper",
        "tokio",
        "tower",
        "tracing",
        "tracing-subscriber",
        "tokio-metrics",
        "metrics",
        "metrics-exporter-prometheus",
        "axum-prometheus",
        "tower-http",
        "opentelemetry",
        "opentelemetry-instrumentation-tower",
        "axum-otel-metrics",
        "quanta",
    ];
    let describe = |name: &&str| {
        let entry = format!("\nname = \"{name}\"\n");
        let packages = lock.split("[[package]]").filter(|package| package.contains(&entry));
        let versions = packages.filter_map(|p| p.split("version = \"").nth(1)?.split('"').next());
        format!("{name} {}", versions.collect::<Vec<_>>().join(" and "))
    };
    format!("{}.", CRATES.iter().map(describe).collect::<Vec<_>>().join(", "))
}

/// Breaks a paragraph into lines.
fn wrap(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= COLUMNS {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join("\n") + "\n"
}

/// Describes when and on what the section was measured.
fn environment() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown");
    format!(
        "<sub>{}, {cores} cores of {};\n{}; load average at the end: {load}</sub>\n",
        output("date", &["+%e %b %Y, %H:%M"]),
        model.map_or("an unknown processor", |(_, model)| model),
        output("rustc", &["--version"]),
    )
}

fn output(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(_) => "unknown".into(),
    }
}
