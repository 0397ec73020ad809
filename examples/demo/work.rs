//! What the handlers work on, in amounts that take about as long on any machine.

use std::hint::black_box;
use std::time::Duration;

use serde_json::{Value, json};

use crate::burn;

pub(crate) use crate::burn::{sample, smooth};

/// How much work fills a given time here, measured at the start.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// Rows of the exported document.
    pub(crate) rows: usize,
    /// Passes that make one thumbnail.
    pub(crate) thumbnail: usize,
    /// Passes that make the forecast among the events.
    pub(crate) forecast: usize,
}

impl Sizes {
    pub(crate) fn measure() -> Self {
        Self {
            rows: burn::units(Duration::from_millis(90), |rows| drop(black_box(document(rows)))),
            thumbnail: burn::units(Duration::from_millis(30), burn::smooth_sample),
            forecast: burn::units(Duration::from_millis(90), burn::smooth_sample),
        }
    }
}

/// The sales of all times, as the finance department likes them.
pub(crate) fn document(rows: usize) -> String {
    Value::from_iter((0..rows).map(sale)).to_string()
}

fn sale(number: usize) -> Value {
    json!({ "number": number, "customer": format!("customer-{}", number % 977), "total": number as f64 * 1.07, "paid": true })
}
