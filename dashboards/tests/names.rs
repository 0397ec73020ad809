//! Tests that the dashboards, rules, runbook and docs use the documented names.
//!
//! A test of the main crate compares its metrics with `src/docs/metrics.md`; these tests compare
//! that page with everything else.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use support::promql::{self, Query};
use support::{
    DASHBOARDS, Metric, alerts, dashboard, here, label_values, list, metrics, queries, read,
    repository, rules, text,
};

/// Metrics that no dashboard and no rule uses, each with the reason.
const UNUSED: [(&str, &str); 1] =
    [("tower_stall_off_worker_polls_total", "these polls delay no other task")];
/// Labels that Prometheus adds.
const TARGET_LABELS: [&str; 2] = ["job", "instance"];

/// Returns all expressions with their places.
fn expressions() -> Vec<(String, String)> {
    let of_dashboards = DASHBOARDS.iter().flat_map(|name| {
        queries(&dashboard(name))
            .into_iter()
            .map(move |(place, expr)| (format!("{name}.json, {place}"), expr))
    });
    let of_rules =
        rules().into_iter().map(|rule| (rule.alert.or(rule.record).unwrap_or_default(), rule.expr));
    of_dashboards.chain(of_rules).collect()
}

fn parse_all() -> Vec<(String, Query)> {
    let parse = |(place, expr): (String, String)| match promql::parse(&expr) {
        Ok(query) => (place, query),
        Err(error) => panic!("{place}: {error}\n{expr}"),
    };
    expressions().into_iter().map(parse).collect()
}

/// Returns each series that exists, with its labels.
fn series() -> BTreeMap<String, BTreeSet<String>> {
    let mut series = BTreeMap::new();
    for Metric { name, kind, mut labels } in metrics() {
        labels.extend(TARGET_LABELS.map(str::to_owned));
        if kind == "histogram" {
            let mut of_buckets = labels.clone();
            of_buckets.insert("le".into());
            series.insert(format!("{name}_bucket"), of_buckets);
            series.insert(format!("{name}_sum"), labels.clone());
            series.insert(format!("{name}_count"), labels);
        } else {
            series.insert(name, labels);
        }
    }
    series.extend(rules().into_iter().filter_map(|rule| {
        let level =
            rule.record.as_deref()?.split(':').next()?.split('_').map(str::to_owned).collect();
        Some((rule.record?, level))
    }));
    series.insert("ALERTS".into(), ["alertstate", "alertname", "job"].map(str::to_owned).into());
    series
}

#[test]
fn metrics_are_used_or_listed_as_unused() {
    let used: BTreeSet<_> =
        parse_all().into_iter().flat_map(|(_, query)| query.selectors).map(|it| it.name).collect();
    for metric in metrics() {
        let is_used =
            used.iter().any(|name| metric_of(name) == metric.name || *name == metric.name);
        let is_listed = UNUSED.iter().any(|(name, _)| *name == metric.name);
        assert!(
            is_used != is_listed,
            "{}: used {is_used}, listed as unused {is_listed}",
            metric.name
        );
    }
}

fn metric_of(name: &str) -> &str {
    ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name)
}

#[test]
fn queries_use_existing_series_and_labels() {
    let series = series();
    for (place, query) in parse_all() {
        let mut known = BTreeSet::new();
        for selector in &query.selectors {
            let Some(labels) = series.get(&selector.name) else {
                panic!("{place}: there is no {}", selector.name)
            };
            for (label, ..) in &selector.matchers {
                assert!(labels.contains(label), "{place}: {} has no label {label}", selector.name);
            }
            known.extend(labels.clone());
        }
        for label in &query.labels {
            assert!(known.contains(label), "{place}: no series in it has the label {label}");
        }
    }
}

#[test]
fn queries_use_existing_label_values() {
    let listed = ["cause", "probe", "phase", "result", "outcome", "by"]
        .map(|label| (label, label_values(label).unwrap()));
    let mut compared = 0;
    for (place, query) in parse_all() {
        for (label, _, value) in query.selectors.iter().flat_map(|selector| &selector.matchers) {
            let Some((_, values)) = listed.iter().find(|(listed, _)| listed == label) else {
                continue;
            };
            for value in value.split('|') {
                assert!(
                    values.contains(value),
                    "{place}: {label} is {value}, not one of {values:?}"
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 10, "{compared} values were compared");
}

/// Prometheus 3 stores `le="1"` as `le="1.0"`, so a query must match both.
#[test]
fn integral_bucket_bounds_match_both_spellings() {
    for (place, query) in parse_all() {
        for (label, operator, value) in
            query.selectors.iter().flat_map(|selector| &selector.matchers)
        {
            let is_integral = label == "le"
                && operator == "="
                && value.parse::<f64>().is_ok_and(|bound| bound.fract() == 0.0);
            assert!(!is_integral, "{place}: le=\"{value}\"");
        }
    }
}

#[test]
fn legends_show_labels_that_remain() {
    for name in DASHBOARDS {
        for panel in list(&dashboard(name), "/panels") {
            for target in list(panel, "/targets") {
                let query = promql::parse(text(target, "/expr")).unwrap();
                for label in text(target, "/legendFormat")
                    .split("{{")
                    .skip(1)
                    .filter_map(|rest| rest.split("}}").next())
                {
                    assert!(
                        query.labels.iter().any(|remaining| remaining == label),
                        "{name}.json, {}: {label}",
                        text(panel, "/title")
                    );
                }
            }
        }
    }
}

// === Rules ===

#[test]
fn recording_rules_are_named_by_level_and_used() {
    let all = parse_all();
    for rule in rules() {
        let Some(name) = rule.record else { continue };
        assert_eq!(name.split(':').count(), 3, "{name} is not level:metric:operations");
        let users: Vec<_> = all
            .iter()
            .filter(|(_, query)| query.selectors.iter().any(|it| it.name == name))
            .collect();
        assert!(!users.is_empty(), "{name} is unused");
    }
}

#[test]
fn alerts_have_texts_severity_and_links() {
    for (name, alert) in alerts() {
        assert!(name.starts_with("EventLoop"), "{name}");
        assert!(
            ["critical", "warning", "info"].contains(&alert.labels["severity"].as_str()),
            "{name}"
        );
        let annotation =
            |key: &str| alert.annotations.get(key).unwrap_or_else(|| panic!("{name} has no {key}"));
        let (summary, description) = (annotation("summary"), annotation("description"));
        assert!(summary.ends_with('.') && !summary.contains("{{"), "{name}: {summary}");
        assert!(description.contains("{{") && description.ends_with('.'), "{name}: {description}");
        let home = "https://github.com/tower-stall/tower-stall/blob/main/docs/runbook.md#";
        assert_eq!(*annotation("runbook_url"), format!("{home}{}", name.to_lowercase()));
        assert_dashboard_link(
            &name,
            annotation("dashboard_url").strip_prefix("http://localhost:3000").unwrap(),
        );
    }
}

/// Asserts that the dashboard of a link exists and has its variables.
fn assert_dashboard_link(place: &str, link: &str) {
    let (path, query) = link.split_once('?').unwrap();
    let uid = path.strip_prefix("/d/").unwrap();
    let target = DASHBOARDS.map(dashboard).into_iter().find(|dashboard| dashboard["uid"] == uid);
    let Some(target) = target else { panic!("{place}: there is no dashboard {uid}") };
    for variable in query.split('&').filter_map(|part| part.strip_prefix("var-")?.split('=').next())
    {
        let known =
            list(&target, "/templating/list").iter().any(|it| text(it, "/name") == variable);
        assert!(known, "{place}: {uid} has no variable {variable}");
    }
}

#[test]
fn alerts_are_tested_to_fire_and_to_stay_silent() {
    let mut fires = BTreeSet::new();
    let mut stays_silent = BTreeSet::new();
    for file in std::fs::read_dir(here().join("rules/tests")).unwrap() {
        let file: Value = serde_norway::from_str(&read(file.unwrap().path())).unwrap();
        for test in list(&file, "/tests") {
            let checks = list(test, "/alert_rule_test");
            let expected = |check: &Value| list(check, "/exp_alerts").to_vec();
            let name = |check: &Value| text(check, "/alertname").to_owned();
            for check in checks {
                for alert in expected(check) {
                    assert!(
                        alert["exp_labels"].is_object() && alert["exp_annotations"].is_object(),
                        "{alert}"
                    );
                    fires.insert(name(check));
                }
            }
            if checks.iter().all(|check| expected(check).is_empty()) {
                stays_silent.extend(checks.iter().map(name));
            }
        }
    }
    let all: BTreeSet<_> = alerts().into_keys().collect();
    assert_eq!(fires, all);
    assert_eq!(stays_silent, all);
}

// === Links and docs ===

#[test]
fn dashboard_links_are_valid() {
    let mut checked = 0;
    for name in DASHBOARDS {
        let json = read(here().join(format!("{name}.json")));
        for link in json.split('"').filter(|word| word.starts_with("/d/")) {
            assert_dashboard_link(name, link);
            checked += 1;
        }
        let home = "https://github.com/tower-stall/tower-stall/blob/main/";
        for link in json.split(home).skip(1) {
            let link = link.split(['"', ')']).next().unwrap();
            assert!(exists(link), "{name}.json links to {link}");
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked}");
}

/// Returns whether a page of this repository exists, with the heading that the link names.
fn exists(link: &str) -> bool {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let path = repository().join(path);
    path.exists() && (anchor.is_empty() || headings(&read(path)).contains(anchor))
}

/// Returns the anchors that GitHub generates for the headings of a page.
fn headings(page: &str) -> BTreeSet<String> {
    let anchor = |heading: &str| -> String {
        let text = heading
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .collect::<String>();
        text.replace(' ', "-")
    };
    page.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

#[test]
fn runbook_sections_match_the_alerts() {
    let runbook = read(repository().join("docs/runbook.md"));
    let sections: BTreeSet<_> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## EventLoop"))
        .map(|rest| format!("EventLoop{rest}"))
        .collect();
    assert_eq!(sections, alerts().into_keys().collect());
    for section in runbook.split("\n## EventLoop").skip(1) {
        let section = section.split("\n## ").next().unwrap();
        for part in
            ["**Meaning**", "**Impact**", "**Diagnosis**", "**Mitigation**", "**Silencing**"]
        {
            assert!(
                section.contains(part),
                "EventLoop{}: no {part}",
                section.lines().next().unwrap()
            );
        }
    }
}

#[test]
fn docs_use_existing_names() {
    let series = series();
    let known =
        |name: &str| series.contains_key(name) || series.keys().any(|it| metric_of(it) == name);
    for page in ["docs/runbook.md", "docs/alerting.md", "docs/dashboards.md"] {
        let text = read(repository().join(page));
        let words = text.split(|c: char| !(c.is_alphanumeric() || "_:".contains(c)));
        for name in
            words.filter(|word| word.contains("tower_stall_")).map(|word| word.trim_matches(':'))
        {
            assert!(
                known(name) || series.keys().any(|it| name.ends_with('_') && it.starts_with(name)),
                "{page}: there is no {name}"
            );
        }
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.starts_with("http") {
                let link = if link.starts_with('#') {
                    format!("{page}{link}")
                } else {
                    format!("docs/{link}")
                };
                assert!(exists(&link), "{page} links to {link}");
            }
        }
    }
    let alerting = read(repository().join("docs/alerting.md"));
    for rule in rules().into_iter().filter_map(|rule| rule.record) {
        assert!(alerting.contains(&format!("`{rule}`")), "docs/alerting.md lacks {rule}");
    }
    let dashboards = read(repository().join("docs/dashboards.md"));
    for name in DASHBOARDS {
        assert!(
            dashboards.contains(&format!("../dashboards/{name}.json")),
            "docs/dashboards.md lacks {name}.json"
        );
    }
}

// === Layout ===

#[test]
fn panels_have_descriptions_and_do_not_overlap() {
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        let mut taken = BTreeSet::new();
        for panel in list(&dashboard, "/panels") {
            let title = text(panel, "/title");
            assert!(
                panel["type"] == "text" || text(panel, "/description").len() > 30,
                "{name}.json, {title}: no description"
            );
            let [x, y, w, h] =
                ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
            let cells = (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y)));
            assert!(
                cells.into_iter().all(|cell| taken.insert(cell)),
                "{name}.json, {title} overlaps another panel"
            );
        }
        let id = |panel: &Value| panel["id"].as_u64().unwrap();
        let ids: BTreeSet<_> = list(&dashboard, "/panels").iter().map(id).collect();
        assert_eq!(ids.len(), list(&dashboard, "/panels").len(), "{name}.json");
        assert!((8..=40).contains(&text(&dashboard, "/uid").len()), "{name}.json");
        assert_eq!(dashboard["schemaVersion"], 39);
    }
}
