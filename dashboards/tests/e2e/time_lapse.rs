//! A time-lapse: 15 seconds become one.
//!
//! Scrape and evaluation intervals, the windows of the rules and their `for` are all fifteen times
//! shorter. They keep their proportions, and what takes 15 minutes takes one. Rates are per second,
//! and thresholds are not durations, so both are unchanged. promtool's unit tests cover the windows
//! as shipped.

const FACTOR: f64 = 15.0;

/// Shortens the windows (`[5m]`) and durations (`for: 2m`, `scrape_interval: 15s`) in a file.
pub(crate) fn faster(text: &str) -> String {
    text.lines().map(|line| duration(line).unwrap_or_else(|| windows(line)) + "\n").collect()
}

fn duration(line: &str) -> Option<String> {
    let (key, value) = line.split_once(": ")?;
    let is_duration =
        ["for", "scrape_interval", "evaluation_interval", "group_wait"].contains(&key.trim());
    Some(format!("{key}: {}", shorter(value).filter(|_| is_duration)?))
}

fn windows(line: &str) -> String {
    let mut parts = line.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |line, part| {
        let window = part
            .split_once(']')
            .and_then(|(window, rest)| Some(format!("{}]{rest}", shorter(window)?)));
        line + "[" + &window.unwrap_or_else(|| part.to_owned())
    })
}

fn shorter(duration: &str) -> Option<String> {
    let unit = match duration.chars().last()? {
        's' => 1.0,
        'm' => 60.0,
        'h' => 3600.0,
        _ => return None,
    };
    let count: f64 = duration[..duration.len() - 1].parse().ok()?;
    Some(format!("{}ms", (count * unit * 1000.0 / FACTOR).round()))
}

#[test]
fn only_windows_and_durations_are_shortened() {
    let text = "for: 30s\nexpr: rate(a[5m]) > 10 * 0.01 and b[1h]\n\
        group_by: [alertname, job]\nname: job:a:rate5m\n";
    let shorter = "for: 2000ms\nexpr: rate(a[20000ms]) > 10 * 0.01 and b[240000ms]\n\
        group_by: [alertname, job]\nname: job:a:rate5m\n";
    assert_eq!(faster(text), shorter);
}
