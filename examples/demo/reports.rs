//! Where tower-stall's reports, which are `tracing` events, go.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::SubscriberBuilder;
use tracing_subscriber::fmt::format::{DefaultFields, Format};

use crate::screen::Screen;

/// To the log, if there is one; or else to stderr, unless they would tear the live table.
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
