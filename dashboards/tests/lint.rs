//! The rules of grafana/dashboard-linter, as it codes them (4d0844b, June 2026), for the three dashboards.
//!
//! Two of its seventeen rules are about Loki, which no dashboard asks: that is checked in their stead. Nothing is excluded, so there
//! is no `.lint` file.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::promql::{self, Selector};
use support::{DASHBOARDS, dashboard, list, text};

const UIDS: [&str; 4] = ["$datasource", "${datasource}", "$prometheus_datasource", "${prometheus_datasource}"];
const DRAWN: [&str; 6] = ["stat", "singlestat", "graph", "table", "timeseries", "gauge"];
const QUERIED: [&str; 6] = ["stat", "singlestat", "gauge", "table", "state-timeline", "timeseries"];
/// Of Grafana's unit ids those that are used.
const UNITS: [&str; 6] = ["none", "short", "s", "percentunit", "reqps", "eps"];

/// What is wrong: the rule, and where.
type Findings = Vec<(&'static str, String)>;

#[test]
fn the_dashboards_pass() {
    for name in DASHBOARDS {
        let findings = lint(&dashboard(name));
        assert!(findings.is_empty(), "{name}: {findings:#?}");
    }
}

fn lint(dashboard: &Value) -> Findings {
    let mut findings = variables(dashboard);
    if dashboard["editable"] != false {
        findings.push(("uneditable-dashboard", String::new()));
    }
    for panel in list(dashboard, "/panels") {
        let kind = text(panel, "/type");
        let rules = self::panel(panel, kind).into_iter().chain(targets(panel, kind));
        findings.extend(rules.map(|(rule, what)| (rule, format!("{}: {what}", text(panel, "/title")))));
    }
    findings
}

fn variables(dashboard: &Value) -> Findings {
    let all = list(dashboard, "/templating/list");
    let mut findings = Findings::new();
    let sources: Vec<_> = all.iter().filter(|variable| text(variable, "/type") == "datasource").collect();
    match sources[..] {
        [one] => {
            let named = ["datasource", "prometheus_datasource"].contains(&text(one, "/name"));
            if !named
                || !["Data source", "Prometheus data source"].contains(&text(one, "/label"))
                || one["query"] != "prometheus"
            {
                findings.push(("template-datasource-rule", one.to_string()));
            }
        }
        _ => findings.push(("template-datasource-rule", "not one data source".into())),
    }
    for (rule, name, label) in [("template-job-rule", "job", "Job"), ("template-instance-rule", "instance", "Instance")]
    {
        let fits = |variable: &Value| {
            UIDS.contains(&text(variable, "/datasource/uid"))
                && text(variable, "/type") == "query"
                && text(variable, "/label") == label
                && variable["multi"] == true
                && text(variable, "/allValue") == ".+"
        };
        if !all.iter().any(|variable| text(variable, "/name") == name && fits(variable)) {
            findings.push((rule, name.into()));
        }
    }
    for variable in all.iter().filter(|variable| text(variable, "/type") == "query") {
        let query = text(variable, "/query");
        let inside = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'))
            .and_then(|rest| rest.rsplit_once(','));
        if inside.is_none_or(|(series, _)| promql::read(series).is_err()) {
            findings.push(("template-label-promql-rule", query.into()));
        }
        if variable["refresh"] != 2 {
            findings.push(("template-on-time-change-reload-rule", query.into()));
        }
    }
    findings
}

fn panel(panel: &Value, kind: &str) -> Findings {
    let mut findings = Findings::new();
    let mut complain = |rule, what: &str| findings.push((rule, what.to_owned()));
    if kind != "text" && !UIDS.contains(&text(panel, "/datasource/uid")) {
        complain("panel-datasource-rule", "");
    }
    if DRAWN.contains(&kind) && (text(panel, "/title").is_empty() || text(panel, "/description").is_empty()) {
        complain("panel-title-description-rule", "");
    }
    let unit = text(panel, "/fieldConfig/defaults/unit");
    if DRAWN.contains(&kind) && list(panel, "/fieldConfig/defaults/mappings").is_empty() && !UNITS.contains(&unit) {
        complain("panel-units-rule", unit);
    }
    if DRAWN.contains(&kind) && list(panel, "/targets").is_empty() {
        complain("panel-no-targets-rule", "");
    }
    findings
}

fn targets(panel: &Value, kind: &str) -> Findings {
    let mut findings = Findings::new();
    for target in list(panel, "/targets") {
        let expr = text(target, "/expr");
        let mut complain = |rule| findings.push((rule, expr.to_owned()));
        if text(target, "/datasource/type") != "prometheus" {
            complain("target-logql-rule");
        }
        let Ok(query) = promql::read(expr) else {
            complain("target-promql-rule");
            continue;
        };
        // The linter leaves heat maps out; their expressions are as good as others.
        assert!(QUERIED.contains(&kind) || kind == "heatmap", "{kind} has no rule");
        for selector in query.selectors {
            let function = selector.function.as_deref().unwrap_or_default();
            if ["rate", "irate"].contains(&function) && !selector.at_rate_interval {
                complain("target-rate-interval-rule");
            }
            if !selector.has("job", "=~", "$job") {
                complain("target-job-rule");
            }
            if !selector.has("instance", "=~", "$instance") {
                complain("target-instance-rule");
            }
            if is_bare_counter(&selector) {
                complain("target-counter-agg-rule");
            }
        }
    }
    findings
}

fn is_bare_counter(selector: &Selector) -> bool {
    let aggregated = selector.function.as_deref().is_some_and(|name| ["rate", "irate", "increase"].contains(&name));
    selector.name.ends_with("_total") && !aggregated
}

/// Each rule can fail.
#[test]
fn a_planted_fault_is_found_by_its_rule() {
    let good = dashboard("overview");
    let finds = |rule: &str, plant: &dyn Fn(&mut Value)| {
        let mut bad = good.clone();
        plant(&mut bad);
        let findings = lint(&bad);
        assert!(!findings.is_empty() && findings.iter().all(|(found, _)| *found == rule), "{rule}: {findings:#?}");
    };
    let set =
        |pointer: &'static str, value: Value| move |bad: &mut Value| *bad.pointer_mut(pointer).unwrap() = value.clone();
    let expr = |expr: &str| set("/panels/0/targets/0/expr", json!(expr));
    finds("template-datasource-rule", &set("/templating/list/0/name", json!("prom")));
    finds("template-job-rule", &set("/templating/list/1/allValue", json!(".*")));
    finds("template-instance-rule", &set("/templating/list/2/multi", json!(false)));
    finds("template-label-promql-rule", &set("/templating/list/1/query", json!("label_values(a{, job)")));
    finds("template-on-time-change-reload-rule", &set("/templating/list/1/refresh", json!(1)));
    finds("panel-datasource-rule", &set("/panels/0/datasource/uid", json!("${DS_PROMETHEUS}")));
    finds("panel-title-description-rule", &set("/panels/0/description", json!("")));
    finds("panel-units-rule", &set("/panels/0/fieldConfig/defaults/unit", json!("bananas")));
    finds("panel-no-targets-rule", &set("/panels/0/targets", json!([])));
    finds("target-logql-rule", &set("/panels/0/targets/0/datasource/type", json!("loki")));
    finds("target-promql-rule", &expr("sum(rate("));
    finds("target-rate-interval-rule", &expr(r#"rate(a_total{job=~"$job", instance=~"$instance"}[5m])"#));
    finds("target-job-rule", &expr(r#"a{instance=~"$instance"}"#));
    finds("target-instance-rule", &expr(r#"a{job=~"$job"}"#));
    finds("target-counter-agg-rule", &expr(r#"sum(a_total{job=~"$job", instance=~"$instance"})"#));
    finds("uneditable-dashboard", &set("/editable", json!(true)));
}
