//! Medians and quartiles.

/// The quartiles of a sample.
#[derive(Clone, Copy, Debug)]
pub struct Quartiles {
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
}

impl Quartiles {
    pub fn of(sample: &[f64]) -> Self {
        Self {
            lower: quantile(sample, 0.25),
            median: median(sample),
            upper: quantile(sample, 0.75),
        }
    }
}

impl std::fmt::Display for Quartiles {
    /// Writes the median and, in parentheses, the interquartile range.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let precision = f.precision().unwrap_or(0);
        let Self { lower, median, upper } = self;
        write!(f, "{median:.precision$} ({lower:.precision$}…{upper:.precision$})")
    }
}

pub fn median(sample: &[f64]) -> f64 {
    quantile(sample, 0.5)
}

/// Returns NaN for an empty sample.
pub fn quantile(sample: &[f64], quantile: f64) -> f64 {
    let mut sorted = sample.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * quantile).round() as usize).copied().unwrap_or(f64::NAN)
}
