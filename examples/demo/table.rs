//! The table of routes, sorted by the harm that they do.

use std::cmp::Reverse;
use std::fmt;
use std::time::Duration;

use tower_stall::RouteStats;

const RED: &str = "\x1b[31m";
const RESET: &str = "\x1b[0m";
const COLUMNS: usize = 8;

/// Displays a duration with about two significant digits.
pub(crate) struct Millis(pub(crate) Duration);

/// Returns the table, with the routes that stalled in red if `colors` is set.
pub(crate) fn render(routes: &[RouteStats], colors: bool) -> String {
    let mut routes: Vec<_> = routes.iter().collect();
    routes.sort_by_key(|route| {
        let harm = (Reverse(route.delay_caused()), Reverse(route.stolen_time()));
        (harm, route.route(), route.method())
    });
    let rows = routes.iter().map(|route| painted(row(route), colors && route.stalls() > 0));
    std::iter::once(heading()).chain(rows).collect()
}

fn heading() -> String {
    const NAMES: [&str; COLUMNS] = [
        "route",
        "requests",
        "p99 poll",
        "max poll",
        "stalls",
        "stolen",
        "others waited",
        "stalled now",
    ];
    line(NAMES.map(str::to_owned))
}

fn row(route: &RouteStats) -> String {
    line([
        format!("{} {}", route.method(), route.route()),
        route.requests().to_string(),
        optional(route.poll_quantile(0.99)),
        Millis(route.longest_poll()).to_string(),
        route.stalls().to_string(),
        Millis(route.stolen_time()).to_string(),
        Millis(route.delay_caused()).to_string(),
        optional(route.oldest_stall_age()),
    ])
}

fn line([route, requests, p99, max, stalls, stolen, caused, now]: [String; COLUMNS]) -> String {
    format!(
        "{route:<20} {requests:>8} {p99:>9} {max:>9} {stalls:>6} {stolen:>10} {caused:>13} \
         {now:>11}\n"
    )
}

fn optional(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".to_owned(), |duration| Millis(duration).to_string())
}

fn painted(row: String, red: bool) -> String {
    if red { format!("{RED}{}{RESET}\n", row.trim_end()) } else { row }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_secs_f64() * 1e3;
        match millis {
            0.0 => f.write_str("0"),
            ..1.0 => write!(f, "{millis:.2} ms"),
            ..10.0 => write!(f, "{millis:.1} ms"),
            ..1e3 => write!(f, "{millis:.0} ms"),
            _ => write!(f, "{:.2} s", millis / 1e3),
        }
    }
}
