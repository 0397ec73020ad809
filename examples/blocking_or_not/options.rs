//! The command line.

use std::ffi::OsString;
use std::time::Duration;

use crate::lab::Flavor;
use crate::value::Value;

pub(crate) const HELP: &str = "\
Does a blocking handler hold up everybody else? A route for each way of waiting, asked by several clients at once.

Usage: cargo run --release --example blocking_or_not -- [OPTIONS]

Options:
  --only N         runs the scenarios of that number, such as 3 or 3b [default: all]
  --sleep-ms N     how long a slow request takes, from 200 on [default: 300]
  --runtime KIND   current-thread or multi-thread [default: those that show most]
  --workers N      worker threads of multi-thread [default: 2]
  --rescue WHAT    on or off [default: as the scenario has it]
  --serve          runs nothing, and serves all routes: bring your own clients
  --port N         where `--serve` listens on 127.0.0.1, 0 for a free port [default: 3000]
  --bare           with `--serve`: /hello alone, without the layer, to measure what the layer costs
  --help           prints this
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

const KINDS: [(&str, Kind); 2] = [("current-thread", Kind::CurrentThread), ("multi-thread", Kind::MultiThread)];

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

    /// The runtime that was asked for, if one was.
    pub(crate) fn flavor(&self) -> Option<Flavor> {
        match (self.runtime, self.workers) {
            (Some(Kind::CurrentThread), _) => Some(Flavor::CurrentThread),
            (Some(Kind::MultiThread), workers) => Some(Flavor::MultiThread(workers.unwrap_or(2))),
            (None, workers) => workers.map(Flavor::MultiThread),
        }
    }

    fn set(&mut self, option: &str, rest: &mut impl Iterator<Item = OsString>) -> Result<(), String> {
        let mut value = || Value::next(option, rest);
        match option {
            "--only" => self.only = Some(value()?.text.to_string_lossy().into_owned()),
            "--sleep-ms" => self.sleep = Duration::from_millis(value()?.number(200..=60_000)?),
            "--runtime" => self.runtime = Some(one_of(&value()?, &KINDS)?),
            "--workers" => self.workers = Some(value()?.number(1..=256)?),
            "--rescue" => self.rescue = Some(one_of(&value()?, &[("on", true), ("off", false)])?),
            "--serve" => self.serve = true,
            "--port" => self.port = value()?.number(0..=u16::MAX)?,
            "--bare" => self.bare = true,
            _ => return Err(format!("unknown option `{option}`; `--help` lists them")),
        }
        Ok(())
    }
}

fn one_of<T: Copy>(value: &Value, choices: &[(&str, T)]) -> Result<T, String> {
    let text = value.text.to_string_lossy();
    let chosen = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
    chosen.ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        format!("{} takes {}, not `{text}`", value.option, names.join(" or "))
    })
}
