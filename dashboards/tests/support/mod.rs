//! Access to the files under test, and to the metrics that the crate documents.
#![allow(dead_code)] // Each test uses only a part.

pub(crate) mod promql;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

pub(crate) const DASHBOARDS: [&str; 3] = ["overview", "route", "instance"];
pub(crate) const RULES: [&str; 2] = ["recording", "alerts"];

/// Returns the root of this crate.
pub(crate) fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the root of the repository.
pub(crate) fn repository() -> PathBuf {
    here().parent().unwrap().to_owned()
}

#[track_caller]
pub(crate) fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

// === Dashboards ===

pub(crate) fn dashboard(name: &str) -> Value {
    serde_json::from_str(&read(here().join(name).with_extension("json"))).unwrap()
}

pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Returns every query of a dashboard with its place.
pub(crate) fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let panels = list(dashboard, "/panels").iter().flat_map(|panel| {
        list(panel, "/targets").iter().map(|target| {
            let place = format!("{:?} {}", text(panel, "/title"), text(target, "/refId"));
            (place, text(target, "/expr").to_owned())
        })
    });
    let variables = list(dashboard, "/templating/list").iter().filter_map(|variable| {
        let series = text(variable, "/query").strip_prefix("label_values(")?.rsplit_once(", ")?.0;
        Some((format!("variable {}", text(variable, "/name")), series.to_owned()))
    });
    let annotations = list(dashboard, "/annotations/list").iter().filter_map(|annotation| {
        let expr = annotation["expr"].as_str()?;
        Some((format!("annotation {}", text(annotation, "/name")), expr.to_owned()))
    });
    panels.chain(variables).chain(annotations).collect()
}

// === Rules ===

#[derive(Debug, Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Rule {
    pub(crate) record: Option<String>,
    pub(crate) alert: Option<String>,
    pub(crate) expr: String,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

pub(crate) fn rules() -> Vec<Rule> {
    let files = RULES.map(|name| read(here().join("rules").join(name).with_extension("yaml")));
    files
        .iter()
        .flat_map(|text| serde_norway::from_str::<Groups>(text).unwrap().groups)
        .flat_map(|group| group.rules)
        .collect()
}

/// Returns the alerts by name.
pub(crate) fn alerts() -> BTreeMap<String, Rule> {
    rules().into_iter().filter_map(|rule| Some((rule.alert.clone()?, rule))).collect()
}

// === Metrics ===

/// A metric as documented. A test of the main crate compares the documentation with the code.
#[derive(Debug)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) labels: BTreeSet<String>,
}

fn docs() -> String {
    read(repository().join("src/docs/metrics.md"))
}

pub(crate) fn metrics() -> Vec<Metric> {
    let mut common = Vec::new();
    let mut metrics = Vec::new();
    for line in docs().lines() {
        let quoted: Vec<_> = quoted(line).map(str::to_owned).collect();
        if line.starts_with("# ") {
            common.clear();
        } else if line.starts_with("All of these have the label") {
            common = quoted;
        } else if line.starts_with("| `tower_stall_") {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let further = self::quoted(cells[3]).map(str::to_owned);
            metrics.push(Metric {
                name: quoted[0].clone(),
                kind: cells[2].to_owned(),
                labels: common.iter().cloned().chain(further).collect(),
            });
        }
    }
    assert!(metrics.len() > 20, "cannot parse metrics.md: {metrics:?}");
    metrics
}

/// Returns the possible values of a label, if the documentation lists all of them.
pub(crate) fn label_values(label: &str) -> Option<BTreeSet<String>> {
    let docs = docs();
    let start = docs.find(&format!("\n- `{label}`:"))? + 1;
    let item = docs[start..].split("\n- ").next()?.split("\n\n").next()?;
    Some(quoted(item).skip(1).map(str::to_owned).collect())
}

pub(crate) fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}
