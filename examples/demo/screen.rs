//! Output to stdout: redrawn in place on a terminal, one page after another otherwise.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;

pub(crate) enum Screen {
    Terminal { lines_drawn: usize },
    Plain,
}

impl Screen {
    pub(crate) fn stdout() -> Self {
        if io::stdout().is_terminal() { Self::Terminal { lines_drawn: 0 } } else { Self::Plain }
    }

    pub(crate) fn is_live(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    pub(crate) fn has_colors(&self) -> bool {
        self.is_live() && env::var_os("NO_COLOR").is_none()
    }

    /// Returns the time between two pages.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(if self.is_live() { 500 } else { 5000 })
    }

    pub(crate) fn show(&mut self, page: &str) -> io::Result<()> {
        let text = match self {
            Self::Terminal { lines_drawn } => {
                let lines_before = std::mem::replace(lines_drawn, page.lines().count());
                redrawn(page, lines_before)
            }
            Self::Plain => format!("{page}\n"),
        };
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }
}

/// Returns the output that draws a page over the previous one. Long lines are cut off rather than
/// wrapped, so that the number of lines on the screen is known.
fn redrawn(page: &str, lines_before: usize) -> String {
    let mut text = String::from("\x1b[?7l");
    if lines_before > 0 {
        let _ = write!(text, "\x1b[{lines_before}A");
    }
    for line in page.lines() {
        let _ = writeln!(text, "\r{line}\x1b[K");
    }
    text + "\x1b[J\x1b[?7h"
}
