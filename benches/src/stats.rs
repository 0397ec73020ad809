//! Medians and spreads.

/// The middle of some numbers, and the middle half of them.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(numbers: &[f64]) -> Self {
        Self { median: median(numbers), low: quantile(numbers, 0.25), high: quantile(numbers, 0.75) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} ({:.0}…{:.0})", self.median, self.low, self.high)
    }
}

pub fn median(numbers: &[f64]) -> f64 {
    quantile(numbers, 0.5)
}

/// Of an empty list it is not a number.
pub fn quantile(numbers: &[f64], quantile: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * quantile).round() as usize).copied().unwrap_or(f64::NAN)
}
