//! The rules of grafana/dashboard-linter, as implemented at 4d0844b (June 2026), applied to the
//! three dashboards.
//!
//! Two of its seventeen rules are about Loki. No dashboard queries Loki, and that is checked
//! instead. No rule is excluded, so there is no `.lint` file.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::promql::{self, Selector};
use support::{DASHBOARDS, dashboard, list, text};

const UIDS: [&str; 4] =
    ["$datasource", "${datasource}", "$prometheus_datasource", "${prometheus_datasource}"];
const VISUAL: [&str; 6] = ["stat", "singlestat", "graph", "table", "timeseries", "gauge"];
const QUERIED: [&str; 6] = ["stat", "singlestat", "gauge", "table", "state-timeline", "timeseries"];
/// Ids of the Grafana units that the dashboards use.
const UNITS: [&str; 6] = ["none", "short", "s", "percentunit", "reqps", "eps"];

/// Violated rules, each with the place of the violation.
type Findings = Vec<(&'static str, String)>;

#[test]
fn dashboards_pass_the_linter() {
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
        findings.extend(
            rules.map(|(rule, detail)| (rule, format!("{}: {detail}", text(panel, "/title")))),
        );
    }
    findings
}

fn variables(dashboard: &Value) -> Findings {
    let all = list(dashboard, "/templating/list");
    let mut findings = Findings::new();
    let sources: Vec<_> =
        all.iter().filter(|variable| text(variable, "/type") == "datasource").collect();
    match sources[..] {
        [source] => {
            let has_name = ["datasource", "prometheus_datasource"].contains(&text(source, "/name"));
            if !has_name
                || !["Data source", "Prometheus data source"].contains(&text(source, "/label"))
                || source["query"] != "prometheus"
            {
                findings.push(("template-datasource-rule", source.to_string()));
            }
        }
        _ => findings.push(("template-datasource-rule", "expected exactly one data source".into())),
    }
    for (rule, name, label) in
        [("template-job-rule", "job", "Job"), ("template-instance-rule", "instance", "Instance")]
    {
        let is_valid = |variable: &Value| {
            UIDS.contains(&text(variable, "/datasource/uid"))
                && text(variable, "/type") == "query"
                && text(variable, "/label") == label
                && variable["multi"] == true
                && text(variable, "/allValue") == ".+"
        };
        if !all.iter().any(|variable| text(variable, "/name") == name && is_valid(variable)) {
            findings.push((rule, name.into()));
        }
    }
    for variable in all.iter().filter(|variable| text(variable, "/type") == "query") {
        let query = text(variable, "/query");
        let argument = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'))
            .and_then(|rest| rest.rsplit_once(','));
        if argument.is_none_or(|(series, _)| promql::parse(series).is_err()) {
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
    let mut report = |rule, detail: &str| findings.push((rule, detail.to_owned()));
    if kind != "text" && !UIDS.contains(&text(panel, "/datasource/uid")) {
        report("panel-datasource-rule", "");
    }
    if VISUAL.contains(&kind)
        && (text(panel, "/title").is_empty() || text(panel, "/description").is_empty())
    {
        report("panel-title-description-rule", "");
    }
    let unit = text(panel, "/fieldConfig/defaults/unit");
    if VISUAL.contains(&kind)
        && list(panel, "/fieldConfig/defaults/mappings").is_empty()
        && !UNITS.contains(&unit)
    {
        report("panel-units-rule", unit);
    }
    if VISUAL.contains(&kind) && list(panel, "/targets").is_empty() {
        report("panel-no-targets-rule", "");
    }
    findings
}

fn targets(panel: &Value, kind: &str) -> Findings {
    let mut findings = Findings::new();
    for target in list(panel, "/targets") {
        let expr = text(target, "/expr");
        let mut report = |rule| findings.push((rule, expr.to_owned()));
        if text(target, "/datasource/type") != "prometheus" {
            report("target-logql-rule");
        }
        let Ok(query) = promql::parse(expr) else {
            report("target-promql-rule");
            continue;
        };
        // The linter skips heat maps; here they are checked like all other panels.
        assert!(QUERIED.contains(&kind) || kind == "heatmap", "no rules for panels of type {kind}");
        for selector in query.selectors {
            let function = selector.function.as_deref().unwrap_or_default();
            if ["rate", "irate"].contains(&function) && !selector.at_rate_interval {
                report("target-rate-interval-rule");
            }
            if !selector.has("job", "=~", "$job") {
                report("target-job-rule");
            }
            if !selector.has("instance", "=~", "$instance") {
                report("target-instance-rule");
            }
            if is_bare_counter(&selector) {
                report("target-counter-agg-rule");
            }
        }
    }
    findings
}

fn is_bare_counter(selector: &Selector) -> bool {
    let aggregated = selector
        .function
        .as_deref()
        .is_some_and(|name| ["rate", "irate", "increase"].contains(&name));
    selector.name.ends_with("_total") && !aggregated
}

#[test]
fn each_rule_detects_its_violation() {
    let valid = dashboard("overview");
    let detects = |rule: &str, break_it: &dyn Fn(&mut Value)| {
        let mut invalid = valid.clone();
        break_it(&mut invalid);
        let findings = lint(&invalid);
        assert!(
            !findings.is_empty() && findings.iter().all(|(found, _)| *found == rule),
            "{rule}: {findings:#?}"
        );
    };
    let set = |pointer: &'static str, value: Value| {
        move |invalid: &mut Value| *invalid.pointer_mut(pointer).unwrap() = value.clone()
    };
    let expr = |expr: &str| set("/panels/0/targets/0/expr", json!(expr));
    detects("template-datasource-rule", &set("/templating/list/0/name", json!("prom")));
    detects("template-job-rule", &set("/templating/list/1/allValue", json!(".*")));
    detects("template-instance-rule", &set("/templating/list/2/multi", json!(false)));
    detects(
        "template-label-promql-rule",
        &set("/templating/list/1/query", json!("label_values(a{, job)")),
    );
    detects("template-on-time-change-reload-rule", &set("/templating/list/1/refresh", json!(1)));
    detects("panel-datasource-rule", &set("/panels/0/datasource/uid", json!("${DS_PROMETHEUS}")));
    detects("panel-title-description-rule", &set("/panels/0/description", json!("")));
    detects("panel-units-rule", &set("/panels/0/fieldConfig/defaults/unit", json!("bananas")));
    detects("panel-no-targets-rule", &set("/panels/0/targets", json!([])));
    detects("target-logql-rule", &set("/panels/0/targets/0/datasource/type", json!("loki")));
    detects("target-promql-rule", &expr("sum(rate("));
    detects(
        "target-rate-interval-rule",
        &expr(r#"rate(a_total{job=~"$job", instance=~"$instance"}[5m])"#),
    );
    detects("target-job-rule", &expr(r#"a{instance=~"$instance"}"#));
    detects("target-instance-rule", &expr(r#"a{job=~"$job"}"#));
    detects(
        "target-counter-agg-rule",
        &expr(r#"sum(a_total{job=~"$job", instance=~"$instance"})"#),
    );
    detects("uneditable-dashboard", &set("/editable", json!(true)));
}
