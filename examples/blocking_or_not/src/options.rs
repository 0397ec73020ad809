//! Command-line options. lexopt has no dependencies; clap would add some ten crates to the build.

use std::ffi::OsString;
use std::time::Duration;

use blocking_or_not::Flavor;
use lexopt::Parser;
use lexopt::prelude::*;

use crate::number::number;

pub(crate) const HELP: &str = "\
Measures whom a blocking handler delays, and what tower-stall reports about it.

Usage: cargo run --release --package blocking-or-not -- [OPTIONS]

Options:
      --only <NUMBER>    Run only the scenarios with this number, such as 3 or 3b [default: all]
      --sleep-ms <N>     How long a slow request takes, at least 200 [default: 300]
      --runtime <KIND>   current-thread or multi-thread [default: several per scenario]
      --workers <N>      Worker threads of a multi-thread runtime [default: 2]
      --rescue <on|off>  Whether the watchdog may rescue the I/O driver [default: per scenario]
      --serve            Run no experiments; serve all routes to other clients
      --port <PORT>      With --serve: port of the service; 0 picks a free one [default: 3000]
      --bare             With --serve: serve only /hello, without the layer, as a baseline
  -h, --help             Print this help
";

pub(crate) enum Command {
    Run(Options),
    Help,
}

pub(crate) struct Options {
    pub(crate) only: Option<String>,
    pub(crate) sleep: Duration,
    pub(crate) runtime: Option<Kind>,
    pub(crate) workers: Option<usize>,
    pub(crate) rescue: Option<bool>,
    pub(crate) serve: bool,
    pub(crate) port: u16,
    pub(crate) bare: bool,
}

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    CurrentThread,
    MultiThread,
}

const KINDS: [(&str, Kind); 2] =
    [("current-thread", Kind::CurrentThread), ("multi-thread", Kind::MultiThread)];
const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];

impl Default for Options {
    fn default() -> Self {
        Self {
            only: None,
            sleep: Duration::from_millis(300),
            runtime: None,
            workers: None,
            rescue: None,
            serve: false,
            port: 3000,
            bare: false,
        }
    }
}

impl Options {
    /// Parses arguments, without the name of the program.
    pub(crate) fn parse(
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<Command, lexopt::Error> {
        let mut options = Self::default();
        let mut parser = Parser::from_args(args);
        while let Some(arg) = parser.next()? {
            match arg {
                Long("only") => options.only = Some(parser.value()?.string()?),
                Long("sleep-ms") => {
                    let millis = number(&mut parser, "--sleep-ms", 200..=60_000)?;
                    options.sleep = Duration::from_millis(millis);
                }
                Long("runtime") => {
                    options.runtime = Some(choice(&mut parser, "--runtime", &KINDS)?);
                }
                Long("workers") => {
                    options.workers = Some(number(&mut parser, "--workers", 1..=256)?);
                }
                Long("rescue") => options.rescue = Some(choice(&mut parser, "--rescue", &SWITCH)?),
                Long("serve") => options.serve = true,
                Long("port") => options.port = number(&mut parser, "--port", 0..=u16::MAX)?,
                Long("bare") => options.bare = true,
                Short('h') | Long("help") => return Ok(Command::Help),
                _ => return Err(arg.unexpected()),
            }
        }
        Ok(Command::Run(options))
    }

    /// Returns the selected runtime, if any.
    pub(crate) fn flavor(&self) -> Option<Flavor> {
        match (self.runtime, self.workers) {
            (Some(Kind::CurrentThread), _) => Some(Flavor::CurrentThread),
            (Some(Kind::MultiThread), workers) => Some(Flavor::MultiThread(workers.unwrap_or(2))),
            (None, workers) => workers.map(Flavor::MultiThread),
        }
    }
}

/// Parses the value of the option `name`, which must be one of two choices.
fn choice<T: Copy>(
    parser: &mut Parser,
    name: &str,
    choices: &[(&str, T); 2],
) -> Result<T, lexopt::Error> {
    let value = parser.value()?;
    let chosen = choices.iter().find(|(text, _)| value == *text);
    chosen.map(|(_, choice)| *choice).ok_or_else(|| {
        let [(one, _), (other, _)] = choices;
        let value = value.to_string_lossy();
        format!("invalid value '{value}' for option '{name}': expected {one} or {other}").into()
    })
}
