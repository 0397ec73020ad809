//! Clients of the HTTP APIs of Prometheus and Alertmanager.

use std::time::SystemTime;

use serde_json::Value;

use super::support::{list, text};

pub(crate) struct Prometheus(String);

pub(crate) struct Alertmanager(String);

/// An alert as received by Alertmanager.
#[derive(Debug)]
pub(crate) struct Alert {
    pub(crate) name: String,
    pub(crate) job: String,
    pub(crate) route: String,
    pub(crate) description: String,
    pub(crate) runbook_url: String,
    pub(crate) dashboard_url: String,
}

impl Prometheus {
    pub(crate) fn at(port: u16) -> Self {
        Self(format!("http://127.0.0.1:{port}/api/v1"))
    }

    /// Returns the current result of a query, empty while the server is not ready.
    #[track_caller]
    pub(crate) fn instant(&self, query: &str) -> Vec<Value> {
        self.query("query", &[("query", query.to_owned())])
    }

    /// Returns the result of a query over the last minute.
    #[track_caller]
    pub(crate) fn range(&self, query: &str) -> Vec<Value> {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let [start, end] = [now - 60, now].map(|second| second.to_string());
        self.query(
            "query_range",
            &[("query", query.to_owned()), ("start", start), ("end", end), ("step", "5".into())],
        )
    }

    #[track_caller]
    fn query(&self, path: &str, parameters: &[(&str, String)]) -> Vec<Value> {
        let request = ureq::get(format!("{}/{path}", self.0))
            .query_pairs(parameters.iter().map(|(key, value)| (*key, value.as_str())));
        match request.call() {
            Ok(mut response) => {
                list(&response.body_mut().read_json().unwrap(), "/data/result").to_vec()
            }
            // The server is still starting.
            Err(
                ureq::Error::StatusCode(503) | ureq::Error::Io(_) | ureq::Error::ConnectionFailed,
            ) => Vec::new(),
            Err(error) => panic!("{error}: {parameters:?}"),
        }
    }
}

/// Returns the body of a page.
#[track_caller]
pub(crate) fn page(url: &str) -> String {
    ureq::get(url).call().unwrap().body_mut().read_to_string().unwrap()
}

/// Returns the value of an instant series.
pub(crate) fn value(series: &Value) -> f64 {
    text(series, "/value/1").parse().unwrap()
}

/// Returns whether a range series has any value but NaN.
pub(crate) fn has_number(series: &Value) -> bool {
    list(series, "/values").iter().any(|value| value[1] != "NaN")
}

impl Alertmanager {
    pub(crate) fn at(port: u16) -> Self {
        Self(format!("http://127.0.0.1:{port}/api/v2"))
    }

    /// Returns the active alerts, whether inhibited or not.
    pub(crate) fn alerts(&self) -> Vec<Alert> {
        let Ok(mut response) = ureq::get(format!("{}/alerts", self.0)).call() else {
            return Vec::new();
        };
        let alerts: Vec<Value> = response.body_mut().read_json().unwrap();
        alerts.iter().map(Alert::read).collect()
    }
}

impl Alert {
    fn read(alert: &Value) -> Self {
        let field = |pointer| text(alert, pointer).to_owned();
        Self {
            name: field("/labels/alertname"),
            job: field("/labels/job"),
            route: field("/labels/route"),
            description: field("/annotations/description"),
            runbook_url: field("/annotations/runbook_url"),
            dashboard_url: field("/annotations/dashboard_url"),
        }
    }
}
