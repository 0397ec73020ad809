//! A dashboard: its variables, annotations and links, and the place of each panel.

use serde_json::{Value, json};

use crate::File;
use crate::panel::Panel;
use crate::variable::{self, Variable, datasource};

/// The links at the top lead to all dashboards with it.
const TAG: &str = "tower-stall";
const HOME: &str = "https://github.com/tower-stall/tower-stall/blob/main";

#[derive(Debug)]
pub(crate) struct Dashboard {
    /// Stable: alerts, data links and bookmarks have it in their addresses.
    pub(crate) uid: &'static str,
    pub(crate) title: &'static str,
    pub(crate) description: &'static str,
    /// The name of the file, without `.json`.
    pub(crate) file: &'static str,
    pub(crate) variables: &'static [Variable],
    /// From top to bottom; the panels of a row have one height, and fill 24 columns.
    pub(crate) rows: Vec<Vec<Panel>>,
}

impl Dashboard {
    pub(crate) fn file(&self) -> File {
        let mut text = format!("{:#}", self.json());
        text.push('\n');
        File { path: format!("{}.json", self.file).into(), text }
    }

    fn json(&self) -> Value {
        let variables: Vec<_> =
            std::iter::once(variable::datasources()).chain(self.variables.iter().map(|it| it.json())).collect();
        json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": 39,
            "version": 1,
            "editable": false,
            "graphTooltip": 1,
            "fiscalYearStartMonth": 0,
            "liveNow": false,
            "preload": false,
            "refresh": "30s",
            "time": { "from": "now-1h", "to": "now" },
            "timepicker": {},
            "timezone": "browser",
            "weekStart": "",
            "templating": { "list": variables },
            "annotations": { "list": annotations() },
            "links": links(),
            "panels": self.panels(),
        })
    }

    fn panels(&self) -> Vec<Value> {
        let mut panels = Vec::new();
        let mut y = 0;
        for row in &self.rows {
            let mut x = 0;
            let height = row.iter().map(|panel| panel.height).max().unwrap_or_default();
            for panel in row {
                panels.push(panel.json(panels.len() + 1, x, y));
                x += panel.width;
            }
            assert_eq!(x, 24, "{}: the row at {y} does not fill the width", self.title);
            y += height;
        }
        panels
    }
}

fn annotations() -> Value {
    json!([
        {
            "builtIn": 1,
            "name": "Annotations & Alerts",
            "datasource": { "type": "grafana", "uid": "-- Grafana --" },
            "enable": true,
            "hide": true,
            "iconColor": "rgba(0, 211, 255, 1)",
            "type": "dashboard",
        },
        {
            "name": "Firing alerts",
            "datasource": datasource(),
            "enable": true,
            "expr": r#"ALERTS{alertstate="firing", alertname=~"EventLoop.+", job=~"$job"}"#,
            "iconColor": "red",
            "titleFormat": "{{alertname}}",
            "textFormat": "{{severity}} {{job}} {{instance}} {{method}} {{route}}",
            "step": "30s",
        },
        {
            "name": "Stalls",
            "datasource": datasource(),
            "enable": false,
            "expr": r#"sum by (job, method, route) (changes(tower_stall_duration_seconds_count{job=~"$job", instance=~"$instance"}[1m])) > 0"#,
            "iconColor": "orange",
            "titleFormat": "stalls of {{method}} {{route}}",
            "textFormat": "{{job}}",
            "step": "1m",
        },
    ])
}

fn links() -> Value {
    let page = |title: &str, path: &str| {
        json!({
            "type": "link",
            "title": title,
            "url": format!("{HOME}/{path}"),
            "icon": "doc",
            "targetBlank": true,
            "asDropdown": false,
            "includeVars": false,
            "keepTime": false,
            "tags": [],
            "tooltip": "",
        })
    };
    json!([
        {
            "type": "dashboards",
            "title": "Event loop",
            "tags": [TAG],
            "asDropdown": true,
            "includeVars": true,
            "keepTime": true,
            "icon": "external link",
            "targetBlank": false,
            "tooltip": "",
            "url": "",
        },
        page("Runbook", "docs/runbook.md"),
        page("The line of code", "docs/runbook.md#from-a-route-to-its-line-of-code"),
    ])
}
