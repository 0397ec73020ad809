//! One panel, and how each kind of it is drawn.

use serde_json::{Value, json};

use crate::variable::datasource;

#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub(crate) width: u8,
    pub(crate) height: u8,
    kind: Kind,
    title: &'static str,
    /// How to read it, and what to do.
    description: &'static str,
    unit: &'static str,
    decimals: Option<u8>,
    max: Option<f64>,
    /// What is shown where there is nothing, which is often good news.
    nothing: &'static str,
    /// What the axis reaches at least, where all values may be 0.
    reach: Option<f64>,
    /// Values from which on the colour is another; the first colour is for all below.
    thresholds: Vec<(Option<f64>, &'static str)>,
    targets: Vec<Target>,
    links: Vec<Value>,
    overrides: Vec<Value>,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Its worst moment: the largest value of the time shown, or the smallest, or the last.
    Stat(&'static str),
    /// Not the value, but the name of what has it.
    Name,
    Lines {
        logarithmic: bool,
        stacked: bool,
    },
    Bars,
    Heatmap,
    States,
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

/// What a query looks at, by the reader's choice: `{$route}` stands for all labels that are chosen of a route.
const CHOSEN: [(&str, &str); 3] = [
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
            nothing: "",
            reach: None,
            thresholds: Vec::new(),
            targets: Vec::new(),
            links: Vec::new(),
            overrides: Vec::new(),
        }
    }

    /// The worst of the time shown, where more is worse.
    pub(crate) fn verdict(title: &'static str, description: &'static str) -> Self {
        Self::stat("max", title, description)
    }

    pub(crate) fn stat(reduced_by: &'static str, title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Stat(reduced_by), title, description).size(4, 4)
    }

    pub(crate) fn name(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Name, title, description).size(4, 4)
    }

    pub(crate) fn lines(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Lines { logarithmic: false, stacked: false }, title, description)
    }

    /// For what ranges from microseconds to seconds.
    pub(crate) fn log_lines(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Lines { logarithmic: true, stacked: false }, title, description)
    }

    /// For the parts of a whole.
    pub(crate) fn stacked(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Lines { logarithmic: false, stacked: true }, title, description)
    }

    /// For counts of events.
    pub(crate) fn bars(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Bars, title, description)
    }

    pub(crate) fn heatmap(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Heatmap, title, description).unit("s")
    }

    pub(crate) fn states(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::States, title, description)
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

    pub(crate) fn reach(mut self, value: f64) -> Self {
        self.reach = Some(value);
        self
    }

    pub(crate) fn nothing(mut self, text: &'static str) -> Self {
        self.nothing = text;
        self
    }

    pub(crate) fn below(mut self, colour: &'static str) -> Self {
        self.thresholds.insert(0, (None, colour));
        self
    }

    pub(crate) fn from(mut self, value: f64, colour: &'static str) -> Self {
        self.thresholds.push((Some(value), colour));
        self
    }

    pub(crate) fn query(mut self, legend: &'static str, expr: &str) -> Self {
        let expr = CHOSEN.iter().fold(expr.to_owned(), |expr, (short, long)| expr.replace(short, long));
        self.targets.push(Target { expr, legend });
        self
    }

    /// A query of a table, whose value becomes a column.
    pub(crate) fn column(mut self, name: &'static str, unit: &'static str, expr: &str) -> Self {
        let reference = self.reference(self.targets.len());
        let Kind::Table(columns) = &mut self.kind else { unreachable!("only tables have columns") };
        columns.push((format!("Value #{reference}"), name));
        self.overrides.push(named(name, &json!([{ "id": "unit", "value": unit }])));
        self.query("", expr)
    }

    /// A label of a table's rows, as a column.
    pub(crate) fn label(mut self, label: &'static str, name: &'static str) -> Self {
        let Kind::Table(columns) = &mut self.kind else { unreachable!("only tables have columns") };
        columns.push((label.to_owned(), name));
        self
    }

    /// More about the series or column of that name.
    pub(crate) fn with(mut self, name: &str, properties: &Value) -> Self {
        self.overrides.push(named(name, properties));
        self
    }

    /// Draws a column as bars, from yellow to red.
    pub(crate) fn gauge(self, column: &str, decimals: u8, width: u16) -> Self {
        self.with(
            column,
            &json!([
                { "id": "decimals", "value": decimals },
                { "id": "custom.cellOptions", "value": { "type": "gauge", "mode": "basic", "valueDisplayMode": "text" } },
                { "id": "color", "value": { "mode": "continuous-YlRd" } },
                { "id": "custom.width", "value": width },
                // As long as the largest of its own column, not of the table.
                { "id": "min", "value": 0 },
                { "id": "fieldMinMax", "value": true },
            ]),
        )
    }

    /// Gives each cause of stalls its colour: warm for the code's, cold for the machine's.
    pub(crate) fn by_cause(self) -> Self {
        let colours =
            [("cpu", ORANGE), ("blocked", RED), ("preempted", "blue"), ("paused", "purple"), ("unknown", "text")];
        colours.iter().fold(self, |panel, (cause, colour)| {
            panel.with(cause, &json!([{ "id": "color", "value": { "mode": "fixed", "fixedColor": colour } }]))
        })
    }

    /// Where a click on a series leads.
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
        let steps: Vec<_> =
            self.thresholds.iter().map(|(value, color)| json!({ "value": value, "color": color })).collect();
        let by_threshold = matches!(self.kind, Kind::Stat(_) | Kind::Name | Kind::States);
        let mut defaults = json!({
            "unit": self.unit,
            "color": { "mode": if by_threshold { "thresholds" } else { "palette-classic" } },
            "thresholds": { "mode": "absolute", "steps": if steps.is_empty() { json!([{ "value": null, "color": GREEN }]) } else { json!(steps) } },
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
        if !self.nothing.is_empty() {
            defaults["noValue"] = json!(self.nothing);
        }
        defaults
    }

    fn custom(&self) -> Option<Value> {
        Some(match &self.kind {
            Kind::Lines { logarithmic, stacked } => {
                let fill = if *logarithmic { 0 } else { 8 };
                self.drawn("line", if *stacked { 40 } else { fill }, *logarithmic, *stacked)
            }
            Kind::Bars => self.drawn("bars", 80, false, true),
            Kind::States => json!({ "fillOpacity": 80, "lineWidth": 0 }),
            Kind::Heatmap => json!({ "hideFrom": { "legend": false, "tooltip": false, "viz": false } }),
            Kind::Table(_) => json!({ "align": "auto", "cellOptions": { "type": "auto" }, "inspect": false }),
            Kind::Stat(_) | Kind::Name | Kind::Text(_) => return None,
        })
    }

    fn drawn(&self, style: &str, fill: u8, logarithmic: bool, stacked: bool) -> Value {
        let scale = if logarithmic { json!({ "type": "log", "log": 10 }) } else { json!({ "type": "linear" }) };
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
            "thresholdsStyle": { "mode": if self.thresholds.is_empty() { "off" } else { "dashed" } },
            "hideFrom": { "legend": false, "tooltip": false, "viz": false },
        });
        if let Some(reach) = self.reach {
            custom["axisSoftMax"] = json!(reach);
        }
        custom
    }

    fn options(&self) -> Value {
        match &self.kind {
            Kind::Stat(reduced_by) => stat(reduced_by, "area", "value"),
            Kind::Name => stat("lastNotNull", "none", "name"),
            Kind::Lines { .. } | Kind::Bars => json!({
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [] },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            Kind::Heatmap => heatmap(),
            Kind::States => json!({
                "alignValue": "left",
                "mergeValues": true,
                "rowHeight": 0.85,
                "showValue": "never",
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true },
                "tooltip": { "mode": "single", "sort": "none" },
            }),
            Kind::Table(columns) => json!({
                "cellHeight": "sm",
                "showHeader": true,
                "sortBy": columns.iter().find(|(of, _)| of.starts_with("Value")).map(|(_, name)| json!({ "displayName": name, "desc": true })).into_iter().collect::<Vec<_>>(),
            }),
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
            Self::States => "state-timeline",
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
        "color": { "mode": "scheme", "scheme": "Oranges", "fill": "dark-orange", "scale": "exponential", "exponent": 0.3, "steps": 64, "reverse": false },
        "exemplars": { "color": "rgba(255,0,255,0.7)" },
        "filterValues": { "le": 1e-9 },
        "legend": { "show": true },
        "rowsFrame": { "layout": "auto" },
        "showValue": "never",
        "tooltip": { "mode": "single", "yHistogram": true, "showColorScale": true },
        "yAxis": { "axisPlacement": "left", "reverse": false, "unit": "s" },
    })
}

/// One row for each set of labels, its columns in the order given and under their names.
fn transformations(columns: &[(String, &str)]) -> Value {
    let order: serde_json::Map<_, _> =
        columns.iter().enumerate().map(|(index, (of, _))| (of.clone(), json!(index))).collect();
    let names: serde_json::Map<_, _> = columns.iter().map(|(of, name)| (of.clone(), json!(name))).collect();
    json!([
        { "id": "merge", "options": {} },
        { "id": "organize", "options": { "excludeByName": { "Time": true }, "indexByName": order, "renameByName": names } },
    ])
}

pub(crate) fn link(title: &str, url: &str) -> Value {
    json!({ "title": title, "url": url, "targetBlank": false })
}

fn named(name: &str, properties: &Value) -> Value {
    json!({ "matcher": { "id": "byName", "options": name }, "properties": properties })
}
