//! One panel, and the JSON of each kind.

use serde_json::{Value, json};

use crate::variable::datasource;

#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub(crate) width: u8,
    pub(crate) height: u8,
    kind: Kind,
    title: &'static str,
    /// How to read the panel, and what to do.
    description: &'static str,
    unit: &'static str,
    decimals: Option<u8>,
    max: Option<f64>,
    /// Shown where there is no data, which is often good news.
    no_value: &'static str,
    /// The least upper end of the axis, where all values may be 0.
    soft_max: Option<f64>,
    /// Values at which the color changes. The first color has no value: it is for all below.
    thresholds: Vec<(Option<f64>, &'static str)>,
    targets: Vec<Target>,
    links: Vec<Value>,
    overrides: Vec<Value>,
}

#[derive(Clone, Debug)]
enum Kind {
    /// One value, reduced from the time range by a function such as `max`.
    Stat(&'static str),
    /// The name of a series instead of its value.
    Name,
    Lines {
        logarithmic: bool,
        stacked: bool,
    },
    Bars,
    Heatmap,
    StateTimeline,
    Table(Vec<(String, &'static str)>),
    Text(&'static str),
}

#[derive(Clone, Debug)]
struct Target {
    expr: String,
    legend: &'static str,
}

pub(crate) const GREEN: &str = "green";
pub(crate) const YELLOW: &str = "yellow";
pub(crate) const ORANGE: &str = "orange";
pub(crate) const RED: &str = "red";

/// Abbreviations in queries for the label matchers of the dashboard's variables.
const SELECTORS: [(&str, &str); 3] = [
    ("{$instance", r#"{job=~"$job", instance=~"$instance""#),
    ("{$route", r#"{job=~"$job", instance=~"$instance", method=~"$method", route=~"$route""#),
    ("{$runtime", r#"{job=~"$job", instance=~"$instance", runtime=~"$runtime""#),
];

impl Panel {
    fn new(kind: Kind, title: &'static str, description: &'static str) -> Self {
        Self {
            width: 12,
            height: 8,
            kind,
            title,
            description,
            unit: "short",
            decimals: None,
            max: None,
            no_value: "",
            soft_max: None,
            thresholds: Vec::new(),
            targets: Vec::new(),
            links: Vec::new(),
            overrides: Vec::new(),
        }
    }

    /// Creates a panel that shows the maximum over the time range.
    pub(crate) fn peak(title: &'static str, description: &'static str) -> Self {
        Self::stat("max", title, description)
    }

    pub(crate) fn stat(
        reduced_by: &'static str,
        title: &'static str,
        description: &'static str,
    ) -> Self {
        Self::new(Kind::Stat(reduced_by), title, description).size(4, 4)
    }

    pub(crate) fn name(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Name, title, description).size(4, 4)
    }

    pub(crate) fn lines(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Lines { logarithmic: false, stacked: false }, title, description)
    }

    /// Creates a graph for values that range from microseconds to seconds.
    pub(crate) fn log_lines(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Lines { logarithmic: true, stacked: false }, title, description)
    }

    /// Creates a graph for the parts of a whole.
    pub(crate) fn stacked(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Lines { logarithmic: false, stacked: true }, title, description)
    }

    /// Creates a graph for counts of events.
    pub(crate) fn bars(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Bars, title, description)
    }

    pub(crate) fn heatmap(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Heatmap, title, description).unit("s")
    }

    pub(crate) fn state_timeline(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::StateTimeline, title, description)
    }

    pub(crate) fn table(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Table(Vec::new()), title, description)
    }

    pub(crate) fn text(title: &'static str, markdown: &'static str) -> Self {
        Self::new(Kind::Text(markdown), title, "")
    }

    pub(crate) fn size(mut self, width: u8, height: u8) -> Self {
        (self.width, self.height) = (width, height);
        self
    }

    pub(crate) fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    pub(crate) fn decimals(mut self, decimals: u8) -> Self {
        self.decimals = Some(decimals);
        self
    }

    pub(crate) fn max(mut self, max: f64) -> Self {
        self.max = Some(max);
        self
    }

    pub(crate) fn soft_max(mut self, value: f64) -> Self {
        self.soft_max = Some(value);
        self
    }

    pub(crate) fn no_value(mut self, text: &'static str) -> Self {
        self.no_value = text;
        self
    }

    /// Sets the color below the first threshold.
    pub(crate) fn base_color(mut self, color: &'static str) -> Self {
        self.thresholds.insert(0, (None, color));
        self
    }

    /// Sets the color at and above a value. Thresholds are added in ascending order.
    pub(crate) fn threshold(mut self, value: f64, color: &'static str) -> Self {
        self.thresholds.push((Some(value), color));
        self
    }

    pub(crate) fn query(mut self, legend: &'static str, expr: &str) -> Self {
        let expr =
            SELECTORS.iter().fold(expr.to_owned(), |expr, (short, long)| expr.replace(short, long));
        self.targets.push(Target { expr, legend });
        self
    }

    /// Adds a query to a table, with its value as a column.
    pub(crate) fn value_column(
        mut self,
        name: &'static str,
        unit: &'static str,
        expr: &str,
    ) -> Self {
        let reference = self.reference(self.targets.len());
        let Kind::Table(columns) = &mut self.kind else { unreachable!("only tables have columns") };
        columns.push((format!("Value #{reference}"), name));
        self.overrides.push(field_override(name, &json!([{ "id": "unit", "value": unit }])));
        self.query("", expr)
    }

    /// Adds a label of a table's rows as a column.
    pub(crate) fn label_column(mut self, label: &'static str, name: &'static str) -> Self {
        let Kind::Table(columns) = &mut self.kind else { unreachable!("only tables have columns") };
        columns.push((label.to_owned(), name));
        self
    }

    /// Overrides properties of the series or column with that name.
    pub(crate) fn override_field(mut self, name: &str, properties: &Value) -> Self {
        self.overrides.push(field_override(name, properties));
        self
    }

    /// Draws a column as bars, from yellow to red.
    pub(crate) fn gauge_column(self, column: &str, decimals: u8, width: u16) -> Self {
        let bar = json!({ "type": "gauge", "mode": "basic", "valueDisplayMode": "text" });
        self.override_field(
            column,
            &json!([
                { "id": "decimals", "value": decimals },
                { "id": "custom.cellOptions", "value": bar },
                { "id": "color", "value": { "mode": "continuous-YlRd" } },
                { "id": "custom.width", "value": width },
                // Scales the bars to the largest value of the column, not of the table.
                { "id": "min", "value": 0 },
                { "id": "fieldMinMax", "value": true },
            ]),
        )
    }

    /// Sets the color of each cause of stalls: warm for the code's, cold for the host's.
    pub(crate) fn cause_colors(self) -> Self {
        self.series_colors(&[
            ("cpu", ORANGE),
            ("blocked", RED),
            ("preempted", "blue"),
            ("paused", "purple"),
            ("unknown", "text"),
        ])
    }

    /// Gives series their colors, by their legends.
    pub(crate) fn series_colors(self, colors: &[(&str, &str)]) -> Self {
        colors.iter().fold(self, |panel, (series, color)| {
            panel.override_field(
                series,
                &json!([{ "id": "color", "value": { "mode": "fixed", "fixedColor": color } }]),
            )
        })
    }

    /// Adds a link to each series.
    pub(crate) fn link(mut self, title: &str, url: &str) -> Self {
        self.links.push(link(title, url));
        self
    }

    pub(crate) fn json(&self, id: usize, x: u8, y: u8) -> Value {
        let mut json = json!({
            "id": id,
            "type": self.kind.name(),
            "title": self.title,
            "description": self.description,
            "gridPos": { "x": x, "y": y, "w": self.width, "h": self.height },
        });
        if let Kind::Text(markdown) = self.kind {
            json["fieldConfig"] = json!({ "defaults": {}, "overrides": [] });
            json["options"] = json!({ "mode": "markdown", "content": markdown });
            return json;
        }
        json["datasource"] = datasource();
        json["fieldConfig"] = json!({ "defaults": self.defaults(), "overrides": self.overrides });
        json["options"] = self.options();
        json["targets"] = (0..self.targets.len()).map(|index| self.target(index)).collect();
        if let Kind::Table(columns) = &self.kind {
            json["transformations"] = transformations(columns);
        }
        json
    }

    fn reference(&self, index: usize) -> char {
        char::from(b'A' + u8::try_from(index).unwrap_or_default())
    }

    fn target(&self, index: usize) -> Value {
        let Target { expr, legend } = &self.targets[index];
        let (format, instant) = match self.kind {
            Kind::Table(_) => ("table", true),
            Kind::Heatmap => ("heatmap", false),
            _ => ("time_series", false),
        };
        json!({
            "refId": self.reference(index).to_string(),
            "datasource": datasource(),
            "editorMode": "code",
            "expr": expr,
            "legendFormat": if legend.is_empty() { "__auto" } else { legend },
            "format": format,
            "instant": instant,
            "range": !instant,
            "exemplar": false,
        })
    }

    fn defaults(&self) -> Value {
        let mut steps: Vec<_> = self
            .thresholds
            .iter()
            .map(|(value, color)| json!({ "value": value, "color": color }))
            .collect();
        if steps.is_empty() {
            steps.push(json!({ "value": null, "color": GREEN }));
        }
        let by_threshold = matches!(self.kind, Kind::Stat(_) | Kind::Name | Kind::StateTimeline);
        let mut defaults = json!({
            "unit": self.unit,
            "color": { "mode": if by_threshold { "thresholds" } else { "palette-classic" } },
            "thresholds": { "mode": "absolute", "steps": steps },
            "mappings": [],
            "links": self.links,
        });
        if let Some(custom) = self.custom() {
            defaults["custom"] = custom;
        }
        if !matches!(self.kind, Kind::Lines { logarithmic: true, .. }) {
            defaults["min"] = json!(0);
        }
        if let Some(decimals) = self.decimals {
            defaults["decimals"] = json!(decimals);
        }
        if let Some(max) = self.max {
            defaults["max"] = json!(max);
        }
        if !self.no_value.is_empty() {
            defaults["noValue"] = json!(self.no_value);
        }
        defaults
    }

    fn custom(&self) -> Option<Value> {
        Some(match &self.kind {
            Kind::Lines { logarithmic, stacked } => {
                let fill = if *logarithmic { 0 } else { 8 };
                self.graph_style("line", if *stacked { 40 } else { fill }, *logarithmic, *stacked)
            }
            Kind::Bars => self.graph_style("bars", 80, false, true),
            Kind::StateTimeline => json!({ "fillOpacity": 80, "lineWidth": 0 }),
            Kind::Heatmap => {
                json!({ "hideFrom": { "legend": false, "tooltip": false, "viz": false } })
            }
            Kind::Table(_) => {
                json!({ "align": "auto", "cellOptions": { "type": "auto" }, "inspect": false })
            }
            Kind::Stat(_) | Kind::Name | Kind::Text(_) => return None,
        })
    }

    fn graph_style(&self, style: &str, fill: u8, logarithmic: bool, stacked: bool) -> Value {
        let scale = if logarithmic {
            json!({ "type": "log", "log": 10 })
        } else {
            json!({ "type": "linear" })
        };
        let thresholds = if self.thresholds.is_empty() { "off" } else { "dashed" };
        let mut custom = json!({
            "drawStyle": style,
            "lineWidth": 1,
            "fillOpacity": fill,
            "gradientMode": "none",
            "lineInterpolation": "linear",
            "showPoints": "never",
            "pointSize": 5,
            "spanNulls": false,
            "axisPlacement": "auto",
            "axisLabel": "",
            "axisBorderShow": false,
            "axisCenteredZero": false,
            "axisColorMode": "text",
            "barAlignment": 0,
            "insertNulls": false,
            "scaleDistribution": scale,
            "stacking": { "mode": if stacked { "normal" } else { "none" }, "group": "A" },
            "thresholdsStyle": { "mode": thresholds },
            "hideFrom": { "legend": false, "tooltip": false, "viz": false },
        });
        if let Some(soft_max) = self.soft_max {
            custom["axisSoftMax"] = json!(soft_max);
        }
        custom
    }

    fn options(&self) -> Value {
        match &self.kind {
            Kind::Stat(reduced_by) => stat(reduced_by, "area", "value"),
            Kind::Name => stat("lastNotNull", "none", "name"),
            Kind::Lines { .. } | Kind::Bars => json!({
                "legend": {
                    "displayMode": "list",
                    "placement": "bottom",
                    "showLegend": true,
                    "calcs": [],
                },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            Kind::Heatmap => heatmap(),
            Kind::StateTimeline => json!({
                "alignValue": "left",
                "mergeValues": true,
                "rowHeight": 0.85,
                "showValue": "never",
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true },
                "tooltip": { "mode": "single", "sort": "none" },
            }),
            Kind::Table(columns) => {
                let first_value = columns.iter().find(|(field, _)| field.starts_with("Value"));
                let sort_by =
                    first_value.map(|(_, name)| json!({ "displayName": name, "desc": true }));
                json!({
                    "cellHeight": "sm",
                    "showHeader": true,
                    "sortBy": sort_by.into_iter().collect::<Vec<_>>(),
                })
            }
            Kind::Text(_) => json!({}),
        }
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Stat(_) | Self::Name => "stat",
            Self::Lines { .. } | Self::Bars => "timeseries",
            Self::Heatmap => "heatmap",
            Self::StateTimeline => "state-timeline",
            Self::Table(_) => "table",
            Self::Text(_) => "text",
        }
    }
}

fn stat(reduced_by: &str, graph: &str, text: &str) -> Value {
    json!({
        "reduceOptions": { "calcs": [reduced_by], "fields": "", "values": false },
        "colorMode": "background",
        "graphMode": graph,
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": text,
        "wideLayout": true,
        "showPercentChange": false,
        "percentChangeColorMode": "standard",
    })
}

fn heatmap() -> Value {
    json!({
        "calculate": false,
        "calculation": {},
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "fill": "dark-orange",
            "scale": "exponential",
            "exponent": 0.3,
            "steps": 64,
            "reverse": false,
        },
        "exemplars": { "color": "rgba(255,0,255,0.7)" },
        "filterValues": { "le": 1e-9 },
        "legend": { "show": true },
        "rowsFrame": { "layout": "auto" },
        "showValue": "never",
        "tooltip": { "mode": "single", "yHistogram": true, "showColorScale": true },
        "yAxis": { "axisPlacement": "left", "reverse": false, "unit": "s" },
    })
}

/// Merges the queries of a table into one row for each set of labels, and orders and names its
/// columns.
fn transformations(columns: &[(String, &str)]) -> Value {
    let order: serde_json::Map<_, _> = columns
        .iter()
        .enumerate()
        .map(|(index, (field, _))| (field.clone(), json!(index)))
        .collect();
    let names: serde_json::Map<_, _> =
        columns.iter().map(|(field, name)| (field.clone(), json!(name))).collect();
    json!([
        { "id": "merge", "options": {} },
        {
            "id": "organize",
            "options": {
                "excludeByName": { "Time": true },
                "indexByName": order,
                "renameByName": names,
            },
        },
    ])
}

pub(crate) fn link(title: &str, url: &str) -> Value {
    json!({ "title": title, "url": url, "targetBlank": false })
}

fn field_override(name: &str, properties: &Value) -> Value {
    json!({ "matcher": { "id": "byName", "options": name }, "properties": properties })
}
