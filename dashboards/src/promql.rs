//! Expressions that several panels share.

/// Worker seconds that the code has stolen: its own time in stalls, without what the host added.
pub(crate) fn stolen_seconds(selector: &str) -> String {
    format!(r#"tower_stall_stalled_seconds_total{{{selector}, on=~"cpu|off_cpu"}}"#)
}

/// The sum of an expression, grouped by labels; `by` may be empty.
pub(crate) fn sum(by: &str, expr: &str) -> String {
    if by.is_empty() { format!("sum({expr})") } else { format!("sum by ({by}) ({expr})") }
}

/// The sum of a counter's rates.
pub(crate) fn rate(by: &str, counter: &str) -> String {
    sum(by, &format!("rate({counter}[$__rate_interval])"))
}

/// A quantile of a histogram. `by` lists the labels to keep besides `le`, and may be empty.
pub(crate) fn quantile(quantile: &str, by: &str, histogram: &str, selector: &str) -> String {
    let by = if by.is_empty() { "le".to_owned() } else { format!("{by}, le") };
    let buckets = rate(&by, &format!("{histogram}_bucket{selector}"));
    format!("histogram_quantile({quantile}, {buckets})")
}

/// How many samples each bucket of a histogram gained.
pub(crate) fn buckets(histogram: &str, selector: &str) -> String {
    sum("le", &format!("increase({histogram}_bucket{selector}[$__rate_interval])"))
}
