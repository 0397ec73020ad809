//! The handlers' work, in amounts that take about as long on any machine.

use std::hint::black_box;
use std::time::Duration;

use serde_json::{Value, json};

use crate::burn;

pub(crate) use crate::burn::{sample, smooth};

/// Amounts of work with a known duration on this machine, measured at startup.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// Rows of the exported document.
    pub(crate) rows: usize,
    /// Smoothing passes per thumbnail.
    pub(crate) thumbnail: usize,
    /// Smoothing passes per forecast event.
    pub(crate) forecast: usize,
}

impl Sizes {
    pub(crate) fn measure() -> Self {
        let export = |rows| drop(black_box(document(rows)));
        Self {
            rows: burn::calibrate(Duration::from_millis(90), export),
            thumbnail: burn::calibrate(Duration::from_millis(30), burn::smooth_sample),
            forecast: burn::calibrate(Duration::from_millis(90), burn::smooth_sample),
        }
    }
}

/// Returns the list of all sales as JSON.
pub(crate) fn document(rows: usize) -> String {
    Value::from_iter((0..rows).map(sale)).to_string()
}

fn sale(number: usize) -> Value {
    let customer = format!("customer-{}", number % 977);
    json!({ "number": number, "customer": customer, "total": number as f64 * 1.07, "paid": true })
}
