//! The panel of the longest stall in progress.

use crate::panel::{GREEN, ORANGE, Panel, RED, YELLOW};

/// The age of a stall in progress, in the usual words.
pub(crate) const AGE: &str =
    "Age of the oldest stall in progress, at the worst scrape of the selected time range.";

/// Creates the panel for the series that `selector` selects.
pub(crate) fn panel(description: &'static str, selector: &str) -> Panel {
    Panel::peak("Longest stall in progress", description)
        .query("in progress", &format!("max(tower_stall_in_progress_seconds{{{selector}}})"))
        .unit("s")
        .base_color(GREEN)
        .threshold(0.1, YELLOW)
        .threshold(1.0, ORANGE)
        .threshold(5.0, RED)
}
