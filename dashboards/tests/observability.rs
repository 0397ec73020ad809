//! Tests that the files of `examples/observability` are consistent. The end-to-end test runs its
//! Prometheus and Alertmanager configurations.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::{list, read, repository, text};

fn file(path: &str) -> Value {
    serde_norway::from_str(&read(repository().join("examples/observability").join(path))).unwrap()
}

fn services(compose: &Value) -> impl Iterator<Item = (&String, &Value)> {
    compose["services"].as_object().unwrap().iter()
}

#[test]
fn ports_are_on_loopback_and_images_have_versions() {
    let compose = file("compose.yaml");
    for (name, service) in services(&compose) {
        for port in list(service, "/ports") {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name}: {port}");
        }
        let image = text(service, "/image");
        let version = image.rsplit_once(':').map_or("", |(_, version)| version);
        assert!(
            image == "tower-stall-demo" || version.trim_start_matches('v').split('.').count() == 3,
            "{name}: {image}"
        );
        let network = text(service, "/network_mode");
        assert!(network == "service:demo-blocking" || name == "demo-blocking", "{name}: {network}");
    }
}

#[test]
fn referenced_files_are_mounted() {
    let compose = file("compose.yaml");
    let here = repository().join("examples/observability");
    for (name, service) in services(&compose) {
        let mounts: Vec<(&str, &str)> = list(service, "/volumes")
            .iter()
            .map(|volume| {
                volume.as_str().unwrap().strip_suffix(":ro").unwrap().split_once(':').unwrap()
            })
            .collect();
        let is_mounted = |path: &str| {
            mounts.iter().any(|(from, to)| {
                path.strip_prefix(to)
                    .is_some_and(|rest| here.join(from).join(rest.trim_start_matches('/')).exists())
            })
        };
        let arguments = list(service, "/command")
            .iter()
            .filter_map(Value::as_str)
            .filter_map(|it| it.strip_prefix("--config.file="));
        let home = service
            .pointer("/environment/GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH")
            .and_then(Value::as_str);
        for path in arguments.chain(home) {
            assert!(is_mounted(path), "{name}: {path} is not mounted");
        }
    }
    let provider = file("grafana/provisioning/dashboards/event-loop.yaml");
    let path = text(&provider, "/providers/0/options/path");
    let grafana = list(&compose, "/services/grafana/volumes");
    assert!(
        grafana.iter().any(|volume| volume == &format!("../../dashboards:{path}:ro")),
        "{path}"
    );
}

#[test]
fn prometheus_scrapes_the_ports_of_the_demos() {
    let prometheus = file("prometheus.yml");
    let scraped: BTreeSet<_> = list(&prometheus, "/scrape_configs")
        .iter()
        .map(|job| {
            (text(job, "/job_name").to_owned(), text(job, "/static_configs/0/targets/0").to_owned())
        })
        .collect();
    let compose = file("compose.yaml");
    let served: BTreeSet<_> = services(&compose)
        .filter(|(name, _)| name.starts_with("demo-"))
        .map(|(name, service)| {
            let arguments = list(service, "/command");
            let port = arguments.iter().position(|it| it == "--metrics-port").unwrap() + 1;
            (name.clone(), format!("127.0.0.1:{}", arguments[port].as_str().unwrap()))
        })
        .collect();
    assert_eq!(scraped, served);
    let run = read(repository().join("examples/observability/run"));
    for (_, address) in scraped {
        let port = address.rsplit(':').next().unwrap();
        assert!(
            run.contains(&format!("--metrics-port {port}")),
            "run starts no demo on port {port}"
        );
    }
}

#[test]
fn grafana_queries_the_prometheus_of_the_stack() {
    let source = file("grafana/provisioning/datasources/prometheus.yaml");
    assert_eq!(text(&source, "/datasources/0/url"), "http://127.0.0.1:9090");
    let interval = file("prometheus.yml")["global"]["scrape_interval"].clone();
    assert_eq!(source["datasources"][0]["jsonData"]["timeInterval"], interval);
}

#[test]
fn inhibitions_name_existing_alerts() {
    let alerts = support::alerts();
    for rule in list(&file("alertmanager.yml"), "/inhibit_rules") {
        for matcher in list(rule, "/source_matchers").iter().chain(list(rule, "/target_matchers")) {
            for name in matcher.as_str().unwrap().split('"').nth(1).unwrap().split('|') {
                assert!(alerts.contains_key(name), "{name}");
            }
        }
    }
}
