//! The text that `GET /metrics` answers with.

/// What the exporter said at one moment.
pub(crate) struct Scrape(pub(crate) String);

impl Scrape {
    /// The sum of all series of this name that have all of these labels; 0 if there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.values(name, labels).sum()
    }

    pub(crate) fn values(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        let wanted: Vec<_> = labels.iter().map(|(key, value)| format!(",{key}=\"{value}\",")).collect();
        let lines = self.0.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(move |line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (of, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = format!(",{},", labels.trim_end_matches('}'));
            let matches = of == name && wanted.iter().all(|wanted| labels.contains(wanted));
            matches.then(|| value.parse().ok()).flatten()
        })
    }
}
