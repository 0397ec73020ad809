//! The selectors and labels of a PromQL expression.

use promql_parser::parser::{self, AggregateExpr, Call, Expr, LabelModifier, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};

/// Placeholder for Grafana's `$__rate_interval`; no real query uses this value.
const RATE_INTERVAL: &str = "7321s";

/// One selector, such as `name{label="value"}`.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    pub(crate) name: String,
    /// Triples of label, operator and value.
    pub(crate) matchers: Vec<(String, String, String)>,
    /// The function that is applied to its range, if any.
    pub(crate) function: Option<String>,
    /// Whether its range is Grafana's `$__rate_interval`.
    pub(crate) at_rate_interval: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Query {
    pub(crate) selectors: Vec<Selector>,
    /// Labels in clauses such as `by`, `without` and `on`.
    pub(crate) labels: Vec<String>,
}

impl Selector {
    pub(crate) fn has(&self, label: &str, operator: &str, value: &str) -> bool {
        self.matchers
            .iter()
            .any(|matcher| (&*matcher.0, &*matcher.1, &*matcher.2) == (label, operator, value))
    }
}

/// Parses an expression of a dashboard or a rule.
pub(crate) fn parse(expr: &str) -> Result<Query, String> {
    let expr = expr
        .replace("$__rate_interval", RATE_INTERVAL)
        .replace("$__range_s", "3600")
        .replace("$__range", "1h")
        .replace("$__interval", "1m");
    let mut query = Query::default();
    walk_expr(&mut query, &parser::parse(&expr)?).map(|_| ())?;
    Ok(query)
}

impl Query {
    fn add_selector(&mut self, vector: &VectorSelector, range: Option<std::time::Duration>) {
        let mut matchers: Vec<_> = vector.matchers.matchers.clone();
        matchers.extend(vector.matchers.or_matchers.iter().flatten().cloned());
        let name = matchers
            .iter()
            .find(|matcher| matcher.name == "__name__")
            .map(|matcher| matcher.value.clone());
        self.selectors.push(Selector {
            name: vector.name.clone().or(name).unwrap_or_default(),
            matchers: matchers
                .into_iter()
                .map(|it| (it.name, it.op.to_string(), it.value))
                .collect(),
            function: None,
            at_rate_interval: range
                .is_some_and(|range| format!("{}s", range.as_secs()) == RATE_INTERVAL),
        });
    }

    fn add_labels(&mut self, modifier: Option<&LabelModifier>) {
        if let Some(LabelModifier::Include(labels) | LabelModifier::Exclude(labels)) = modifier {
            self.labels.extend(labels.labels.iter().cloned());
        }
    }

    /// Adds the range selectors among the arguments of a function, with its name.
    fn add_call(&mut self, call: &Call) {
        for argument in &call.args.args {
            if let Expr::MatrixSelector(matrix) = &**argument {
                self.add_selector(&matrix.vs, Some(matrix.range));
                if let Some(selector) = self.selectors.last_mut() {
                    selector.function = Some(call.func.name.to_owned());
                }
            }
        }
    }
}

impl ExprVisitor for Query {
    type Error = String;

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, String> {
        match expr {
            Expr::VectorSelector(vector) => self.add_selector(vector, None),
            // Also adds range selectors.
            Expr::Call(call) => self.add_call(call),
            Expr::Aggregate(AggregateExpr { modifier, .. }) => self.add_labels(modifier.as_ref()),
            Expr::Binary(binary) => {
                if let Some(modifier) = &binary.modifier {
                    self.add_labels(modifier.matching.as_ref());
                }
            }
            _ => {}
        }
        Ok(true)
    }
}
