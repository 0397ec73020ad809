//! A test that the files are what `./x dashboards` writes.
#![allow(clippy::unwrap_used)]

mod support;

use support::{here, read};

#[test]
fn each_file_is_what_would_be_written() {
    for file in tower_stall_dashboards::files(here()).unwrap() {
        let kept = read(here().join(&file.path));
        let differs = kept.lines().zip(file.text.lines()).enumerate().find(|(_, (kept, made))| kept != made);
        if let Some((line, (kept, made))) = differs {
            panic!(
                "dashboards/{}:{}: has\n{kept}\nand should have\n{made}\nRun ./x dashboards",
                file.path.display(),
                line + 1
            );
        }
        assert_eq!(kept.len(), file.text.len(), "dashboards/{}: run ./x dashboards", file.path.display());
    }
}

/// `kubectl apply` keeps a copy in an annotation, which holds 256 KiB.
#[test]
fn kubernetes_takes_each_file() {
    for file in tower_stall_dashboards::files(here()).unwrap() {
        assert!(file.text.len() < 256 << 10, "{} has {} bytes", file.path.display(), file.text.len());
    }
}

#[test]
fn kubernetes_files_hold_the_very_rules_and_dashboards() {
    let yaml = |path: &str| serde_norway::from_str::<serde_json::Value>(&read(here().join(path))).unwrap();
    let made = yaml("kubernetes/prometheusrule.yaml");
    let kept: Vec<_> = support::RULES
        .iter()
        .flat_map(|name| yaml(&format!("rules/{name}.yaml"))["groups"].as_array().unwrap().clone())
        .collect();
    assert_eq!(made["spec"]["groups"].as_array(), Some(&kept));

    let made = yaml("kubernetes/dashboards.yaml");
    assert_eq!(made["metadata"]["labels"]["grafana_dashboard"], "1");
    for name in support::DASHBOARDS {
        let inside: serde_json::Value =
            serde_json::from_str(support::text(&made, &format!("/data/event-loop-{name}.json"))).unwrap();
        assert_eq!(inside, support::dashboard(name));
    }
    for name in ["servicemonitor", "podmonitor"] {
        let monitor = yaml(&format!("kubernetes/{name}.yaml")).to_string();
        assert!(monitor.contains(r#""path":"/metrics""#) && monitor.contains(r#""port":"tower-stall""#), "{monitor}");
    }
}
