//! The rules and dashboards as Kubernetes resources, for the Prometheus operator and Grafana's
//! sidecar.

use std::path::Path;
use std::{fs, io};

use crate::File;

const RULES: [&str; 2] = ["recording.yaml", "alerts.yaml"];

pub(crate) fn files(root: &Path, dashboards: &[File]) -> io::Result<Vec<File>> {
    let mut groups = String::new();
    for name in RULES {
        let text = fs::read_to_string(root.join("rules").join(name))?;
        let (head, rules) = text
            .split_once("groups:\n")
            .ok_or_else(|| io::Error::other(format!("{name} has no groups")))?;
        groups.push_str(&indented(head, "    "));
        groups.push_str(&indented(rules, "  "));
    }
    let rules =
        File { path: "kubernetes/prometheusrule.yaml".into(), text: RULE.to_owned() + &groups };
    Ok(std::iter::once(rules).chain(std::iter::once(config_map(dashboards))).collect())
}

const RULE: &str = "\
# Generated from rules/*.yaml by `./x dashboards`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tower-stall
  labels:
    # kube-prometheus-stack selects rules by the label of its release: change it to yours.
    release: kube-prometheus-stack
spec:
  groups:
";

const CONFIG_MAP: &str = "\
# Generated from *.json by `./x dashboards`. Grafana's sidecar selects it by its label.
apiVersion: v1
kind: ConfigMap
metadata:
  name: tower-stall-dashboards
  labels:
    grafana_dashboard: \"1\"
  annotations:
    grafana_folder: Event loop
data:
";

fn config_map(dashboards: &[File]) -> File {
    let mut text = CONFIG_MAP.to_owned();
    for dashboard in dashboards {
        text.push_str(&format!("  event-loop-{}: |\n", dashboard.path.display()));
        text.push_str(&indented(&dashboard.text, "    "));
    }
    File { path: "kubernetes/dashboards.yaml".into(), text }
}

fn indented(text: &str, indent: &str) -> String {
    text.lines()
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("{indent}{line}\n") })
        .collect()
}
