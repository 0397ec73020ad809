//! The variables at the top of a dashboard.

use serde_json::{Value, json};

/// A variable whose values are those of a label.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variable {
    name: &'static str,
    label: &'static str,
    /// The series whose label values are listed.
    series: &'static str,
}

pub(crate) const JOB: Variable =
    Variable { name: "job", label: "Job", series: "tower_stall_build_info" };
pub(crate) const INSTANCE: Variable = Variable {
    name: "instance",
    label: "Instance",
    series: r#"tower_stall_build_info{job=~"$job"}"#,
};
pub(crate) const METHOD: Variable = Variable {
    name: "method",
    label: "Method",
    series: r#"tower_stall_requests_in_flight{job=~"$job", instance=~"$instance"}"#,
};
pub(crate) const ROUTE: Variable = Variable {
    name: "route",
    label: "Route",
    series: "tower_stall_requests_in_flight\
        {job=~\"$job\", instance=~\"$instance\", method=~\"$method\"}",
};
pub(crate) const RUNTIME: Variable = Variable {
    name: "runtime",
    label: "Runtime",
    series: r#"tower_stall_workers{job=~"$job", instance=~"$instance"}"#,
};

/// Returns the reference to the selected data source, for panels, variables and annotations.
pub(crate) fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// Returns the variable that selects the data source.
pub(crate) fn datasources() -> Value {
    json!({
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": { "text": "default", "value": "default" },
        "hide": 0,
        "includeAll": false,
        "multi": false,
        "options": [],
        "refresh": 1,
        "regex": "",
        "skipUrlSync": false,
    })
}

impl Variable {
    pub(crate) fn json(self) -> Value {
        let query = format!("label_values({}, {})", self.series, self.name);
        json!({
            "name": self.name,
            "label": self.label,
            "type": "query",
            "datasource": datasource(),
            "query": query,
            "definition": query,
            "allValue": ".+",
            "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
            "hide": 0,
            "includeAll": true,
            "multi": true,
            "options": [],
            // Reloads with the time range, because routes come and go.
            "refresh": 2,
            "regex": "",
            "skipUrlSync": false,
            "sort": 1,
        })
    }
}
