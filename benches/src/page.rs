//! `BENCHMARKS.md`: each part rewrites what lies between its marks.

use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A table, as Markdown.
pub struct Table {
    text: String,
}

impl Table {
    pub fn new(columns: &[&str]) -> Self {
        let mut table = Self { text: String::new() };
        table.row(columns);
        let line: Vec<_> = columns.iter().enumerate().map(|(at, _)| if at == 0 { "---" } else { "---:" }).collect();
        table.row(&line);
        table
    }

    pub fn row(&mut self, cells: &[impl AsRef<str>]) {
        let cells: Vec<_> = cells.iter().map(AsRef::as_ref).collect();
        self.text += &format!("| {} |\n", cells.join(" | "));
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.text.fmt(f)
    }
}

/// Puts `text` between the marks of `part`, with what it was measured on, and says which versions that are.
pub fn write(part: &str, text: &str) -> Result<()> {
    let page = std::fs::read_to_string(at_root("BENCHMARKS.md"))?;
    let page = replace(&page, part, &format!("{}\n{}", text.trim_end(), machine()))?;
    let page = replace(&page, "versions", &versions(&std::fs::read_to_string(at_root("Cargo.lock"))?))?;
    std::fs::write(at_root("BENCHMARKS.md"), page)?;
    Ok(())
}

fn at_root(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

fn replace(page: &str, part: &str, text: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {part} -->"), format!("<!-- /{part} -->"));
    let (before, rest) = page.split_once(&begin).ok_or_else(|| format!("no mark {begin}"))?;
    let (_, after) = rest.split_once(&end).ok_or_else(|| format!("no mark {end}"))?;
    Ok(format!("{before}{begin}\n{text}{end}{after}"))
}

/// Those of the neighbours, and of what all of them stand on.
fn versions(lock: &str) -> String {
    const SHOWN: [&str; 15] = [
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
    let of = |name: &&str| {
        let packages = lock.split("[[package]]").filter(|package| package.contains(&format!("\nname = \"{name}\"\n")));
        let versions = packages.filter_map(|package| package.split("version = \"").nth(1)?.split('"').next());
        format!("{name} {}", versions.collect::<Vec<_>>().join(" and "))
    };
    format!("{}.\n", SHOWN.iter().map(of).collect::<Vec<_>>().join(", "))
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown").to_owned();
    format!(
        "\n<sub>{}, {cores} cores of {}, {}; load of the machine at the end {load}</sub>\n",
        output("date", &["+%e %b %Y, %H:%M"]),
        model.map_or("an unknown processor", |(_, model)| model),
        output("rustc", &["--version"]),
    )
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    output.map_or_else(|_| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
