//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::value::Value;

pub(crate) const HELP: &str = "\
An axum service with good routes and bad ones, watched by tower-stall, under traffic of its own.

Usage: cargo run --example demo -- [OPTIONS]

Options:
  --port N          where the service listens on 127.0.0.1, 0 for a free port [default: 3000]
  --metrics-port N  where the metrics are served, 0 for a free port [default: 9464]
  --workers N       worker threads of the service's runtime [default: 4]
  --threshold-ms N  a poll that takes longer is a stall [default: 25]
  --seconds N       ends after that time [default: at Ctrl-C]
  --no-rescue       lets timers and I/O stand still while the worker that drives them is held
  --healthy         makes no requests to the bad routes
  --no-traffic      makes no requests: bring your own
  --no-signals      does not interrupt threads that run, so that their lines are not known
  --deadlock        sends a request whose handler waits for a lock that it has itself
  --flamegraph FILE writes where the stalls took their time, as an SVG, at the end
  --log FILE        appends the reports to a file [default: stderr, or nowhere where the table is live]
  --help            prints this
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
    pub(crate) rescue: bool,
    pub(crate) healthy: bool,
    pub(crate) traffic: bool,
    pub(crate) signals: bool,
    pub(crate) deadlock: bool,
    pub(crate) flamegraph: Option<PathBuf>,
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
            rescue: true,
            healthy: false,
            traffic: true,
            signals: true,
            deadlock: false,
            flamegraph: None,
            log: None,
        }
    }
}

impl Options {
    pub(crate) fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Command, String> {
        let mut options = Self::default();
        while let Some(arg) = args.next() {
            let option = arg.to_string_lossy();
            if matches!(&*option, "--help" | "-h") {
                return Ok(Command::Help);
            }
            options.set(&option, &mut args)?;
        }
        Ok(Command::Run(options))
    }

    fn set(&mut self, option: &str, rest: &mut impl Iterator<Item = OsString>) -> Result<(), String> {
        let mut value = || Value::next(option, rest);
        match option {
            "--port" => self.port = value()?.number(0..=u16::MAX)?,
            "--metrics-port" => self.metrics_port = value()?.number(0..=u16::MAX)?,
            "--workers" => self.workers = value()?.number(1..=256)?,
            "--threshold-ms" => self.threshold = Duration::from_millis(value()?.number(1..=60_000)?),
            "--seconds" => self.seconds = Some(value()?.number(1..=86_400)?),
            "--no-rescue" => self.rescue = false,
            "--healthy" => self.healthy = true,
            "--no-traffic" => self.traffic = false,
            "--no-signals" => self.signals = false,
            "--deadlock" => self.deadlock = true,
            "--flamegraph" => self.flamegraph = Some(value()?.text.into()),
            "--log" => self.log = Some(value()?.text.into()),
            _ => return Err(format!("unknown option `{option}`; `--help` lists them")),
        }
        Ok(())
    }
}
