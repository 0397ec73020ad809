//! Command-line options.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

use crate::number::number;

pub(crate) const HELP: &str = "\
An axum service with blocking and non-blocking routes, monitored by tower-stall.

Usage: cargo run --example demo -- [OPTIONS]

Options:
      --port <PORT>              Port of the service; 0 picks a free one [default: 3000]
      --metrics-port <PORT>      Port of the metrics server; 0 picks a free one [default: 9464]
      --workers <N>              Worker threads of the service's runtime [default: 4]
      --threshold-ms <N>         Stall threshold in milliseconds [default: 25]
      --seconds <N>              Exit after this many seconds [default: run until Ctrl-C]
      --no-blocking              Send no requests to the blocking routes
      --no-traffic               Send no requests at all
      --no-rescue                Do not wake another worker when a stall starves the I/O driver
      --no-signals               Do not interrupt running threads to sample their stacks
      --deadlock                 Send one request whose handler deadlocks
      --collapsed-stacks <FILE>  On exit, write where stalls took the time, in the format that
                                 inferno-flamegraph, flamegraph.pl and speedscope read
      --log <FILE>               Append the reports to this file [default: stderr, or nowhere
                                 while the table is redrawn on a terminal]
  -h, --help                     Print this help
";

pub(crate) enum Command {
    Run(Options),
    Help,
}

pub(crate) struct Options {
    pub(crate) port: u16,
    pub(crate) metrics_port: u16,
    pub(crate) workers: usize,
    pub(crate) threshold: Duration,
    pub(crate) seconds: Option<u64>,
    pub(crate) blocking: bool,
    pub(crate) traffic: bool,
    pub(crate) rescue: bool,
    pub(crate) signals: bool,
    pub(crate) deadlock: bool,
    pub(crate) collapsed_stacks: Option<PathBuf>,
    pub(crate) log: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 3000,
            metrics_port: 9464,
            workers: 4,
            threshold: Duration::from_millis(25),
            seconds: None,
            blocking: true,
            traffic: true,
            rescue: true,
            signals: true,
            deadlock: false,
            collapsed_stacks: None,
            log: None,
        }
    }
}

impl Options {
    /// Parses arguments, without the name of the program.
    pub(crate) fn parse(
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<Command, lexopt::Error> {
        let mut options = Self::default();
        let mut parser = lexopt::Parser::from_args(args);
        while let Some(arg) = parser.next()? {
            match arg {
                Long("port") => options.port = number(&mut parser, "--port", 0..=u16::MAX)?,
                Long("metrics-port") => {
                    options.metrics_port = number(&mut parser, "--metrics-port", 0..=u16::MAX)?;
                }
                Long("workers") => options.workers = number(&mut parser, "--workers", 1..=256)?,
                Long("threshold-ms") => {
                    let millis = number(&mut parser, "--threshold-ms", 1..=60_000)?;
                    options.threshold = Duration::from_millis(millis);
                }
                Long("seconds") => {
                    options.seconds = Some(number(&mut parser, "--seconds", 1..=86_400)?);
                }
                Long("no-blocking") => options.blocking = false,
                Long("no-traffic") => options.traffic = false,
                Long("no-rescue") => options.rescue = false,
                Long("no-signals") => options.signals = false,
                Long("deadlock") => options.deadlock = true,
                Long("collapsed-stacks") => options.collapsed_stacks = Some(parser.value()?.into()),
                Long("log") => options.log = Some(parser.value()?.into()),
                Short('h') | Long("help") => return Ok(Command::Help),
                _ => return Err(arg.unexpected()),
            }
        }
        Ok(Command::Run(options))
    }
}
