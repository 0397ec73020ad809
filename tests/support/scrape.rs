//! The text that a scrape of `GET /metrics` returns.

/// The metrics of one scrape, in Prometheus' text format.
pub(crate) struct Scrape(pub(crate) String);

impl Scrape {
    /// Returns the sum of all series of this name that have all of these labels, or 0 if there are
    /// none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.values(name, labels).sum()
    }

    /// Returns the values of all series of this name that have all of these labels.
    pub(crate) fn values(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        let wanted: Vec<_> =
            labels.iter().map(|(key, value)| format!(",{key}=\"{value}\",")).collect();
        let lines = self.0.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(move |line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (series_name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = format!(",{},", labels.trim_end_matches('}'));
            let matches =
                series_name == name && wanted.iter().all(|wanted| labels.contains(wanted));
            matches.then(|| value.parse().ok()).flatten()
        })
    }
}
