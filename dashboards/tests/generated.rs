//! Tests that the checked-in files are those that `./x dashboards` writes.
#![allow(clippy::unwrap_used)]

mod support;

use support::{here, read};

#[test]
fn checked_in_files_are_up_to_date() {
    for file in tower_stall_dashboards::files(here()).unwrap() {
        let current = read(here().join(&file.path));
        let differs = current
            .lines()
            .zip(file.text.lines())
            .enumerate()
            .find(|(_, (current, generated))| current != generated);
        if let Some((line, (current, generated))) = differs {
            panic!(
                "dashboards/{}:{} is\n{current}\nand should be\n{generated}\nRun ./x dashboards",
                file.path.display(),
                line + 1
            );
        }
        assert_eq!(
            current.len(),
            file.text.len(),
            "dashboards/{}: run ./x dashboards",
            file.path.display()
        );
    }
}

/// `kubectl apply` stores a copy in an annotation, which may hold at most 256 KiB.
#[test]
fn files_fit_into_an_annotation() {
    for file in tower_stall_dashboards::files(here()).unwrap() {
        assert!(
            file.text.len() < 256 << 10,
            "{} has {} bytes",
            file.path.display(),
            file.text.len()
        );
    }
}

#[test]
fn kubernetes_files_contain_the_rules_and_dashboards() {
    let yaml =
        |path: &str| serde_norway::from_str::<serde_json::Value>(&read(here().join(path))).unwrap();
    let resource = yaml("kubernetes/prometheusrule.yaml");
    let groups: Vec<_> = support::RULES
        .iter()
        .flat_map(|name| yaml(&format!("rules/{name}.yaml"))["groups"].as_array().unwrap().clone())
        .collect();
    assert_eq!(resource["spec"]["groups"].as_array(), Some(&groups));

    let config_map = yaml("kubernetes/dashboards.yaml");
    assert_eq!(config_map["metadata"]["labels"]["grafana_dashboard"], "1");
    for name in support::DASHBOARDS {
        let contained: serde_json::Value = serde_json::from_str(support::text(
            &config_map,
            &format!("/data/event-loop-{name}.json"),
        ))
        .unwrap();
        assert_eq!(contained, support::dashboard(name));
    }
    for name in ["servicemonitor", "podmonitor"] {
        let monitor = yaml(&format!("kubernetes/{name}.yaml")).to_string();
        assert!(
            monitor.contains(r#""path":"/metrics""#) && monitor.contains(r#""port":"tower-stall""#),
            "{monitor}"
        );
    }
}
