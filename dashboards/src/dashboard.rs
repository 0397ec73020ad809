//! A dashboard: its variables, annotations and links, and the layout of its panels.

use serde_json::{Value, json};

use crate::File;
use crate::panel::Panel;
use crate::variable::{self, Variable, datasource};

/// The menu at the top lists all dashboards with this tag.
const TAG: &str = "tower-stall";
/// The stalls that ended within a minute, by route.
const STALLS: &str = "sum by (job, method, route) (changes(\
    tower_stall_duration_seconds_count{job=~\"$job\", instance=~\"$instance\"}[1m])) > 0";
const HOME: &str = "https://github.com/tower-stall/tower-stall/blob/main";

#[derive(Debug)]
pub(crate) struct Dashboard {
    /// Must not change: it is part of the URLs in alerts, data links and bookmarks.
    pub(crate) uid: &'static str,
    pub(crate) title: &'static str,
    pub(crate) description: &'static str,
    /// Name of the file, without `.json`.
    pub(crate) file: &'static str,
    pub(crate) variables: &'static [Variable],
    /// Rows from top to bottom. The panels of a row have the same height and fill 24 columns.
    pub(crate) rows: Vec<Vec<Panel>>,
}

impl Dashboard {
    pub(crate) fn file(&self) -> File {
        let mut text = format!("{:#}", self.json());
        text.push('\n');
        File { path: format!("{}.json", self.file).into(), text }
    }

    fn json(&self) -> Value {
        let variables: Vec<_> = std::iter::once(variable::datasources())
            .chain(self.variables.iter().map(|it| it.json()))
            .collect();
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
            "expr": STALLS,
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
        page("Find the line of code", "docs/runbook.md#from-a-route-to-its-line-of-code"),
    ])
}
