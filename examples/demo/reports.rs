//! Destination of tower-stall's reports, which are `tracing` events.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::SubscriberBuilder;
use tracing_subscriber::fmt::format::{DefaultFields, Format};

use crate::screen::Screen;

/// Sends reports to the log file if there is one, and otherwise to stderr. On a live screen, where
/// they would garble the table, they are dropped instead.
pub(crate) fn install(log: Option<&Path>, screen: &Screen) -> Result<(), String> {
    match log {
        Some(path) => {
            let file = open(path).map_err(|error| format!("--log {}: {error}", path.display()))?;
            warnings().with_ansi(false).with_writer(Arc::new(file)).init();
        }
        None if screen.is_live() => {}
        None => warnings().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).init(),
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

fn warnings() -> SubscriberBuilder<DefaultFields, Format, LevelFilter> {
    tracing_subscriber::fmt().with_max_level(LevelFilter::WARN).log_internal_errors(false)
}
