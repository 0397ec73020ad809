//! Does a blocking handler hold up everybody else? Ten scenarios, measured over real sockets, and what tower-stall says of each.
//!
//! Run with `cargo run --release --example blocking_or_not`: it takes about a minute and prints one table, which `docs/blocking.md`
//! explains. With `-- --serve` it only serves, so that you can try for yourself, in two terminals:
//!
//! ```text
//! curl http://127.0.0.1:3000/blocking-sleep
//! curl http://127.0.0.1:3000/hello
//! ```
//!
//! The clients have a runtime of their own, on the main thread. Each experiment has a service of its own, on further threads.

#[path = "../common/burn.rs"]
mod burn;
mod lab;
mod options;
mod table;
#[path = "../common/value.rs"]
mod value;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use self::lab::{Experiment, Failure, Flavor, Judgement, SCENARIOS, Scenario, Service, Setup};
use self::options::{Command, HELP, Options};

fn main() -> ExitCode {
    let outcome = match Options::parse(std::env::args_os().skip(1)) {
        Ok(Command::Run(options)) if options.serve => serve(&options),
        Ok(Command::Run(options)) => run(&options),
        Ok(Command::Help) => say(HELP),
        Err(error) => return complain(&error, 2),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error.to_string(), 1),
    }
}

/// Runs the experiments, and fails if the layer says of one what it should not.
fn run(options: &Options) -> Result<(), Failure> {
    let clients = Flavor::CurrentThread.runtime(1)?;
    let (experiments, mut wrong) = (experiments(options)?, Vec::new());
    say(&table::heading())?;
    for experiment in experiments {
        let (outcome, judgement) = clients.block_on(experiment.judged(options.sleep, options.rescue))?;
        say(&table::line(&experiment, &outcome, &judgement))?;
        if let Judgement::Wrong(why) = judgement {
            wrong.push(format!("{}: {why}", experiment.scenario.number));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn experiments(options: &Options) -> Result<Vec<Experiment>, Failure> {
    let is_wanted = |scenario: &Scenario| options.only.as_deref().is_none_or(|only| scenario.is_numbered(only));
    let wanted = SCENARIOS.iter().filter(|scenario| is_wanted(scenario));
    let experiments: Vec<_> = wanted.flat_map(|scenario| Experiment::of(scenario, options.flavor())).collect();
    if experiments.is_empty() { Err("there is no such scenario on that runtime".into()) } else { Ok(experiments) }
}

/// Serves until the process is ended.
fn serve(options: &Options) -> Result<(), Failure> {
    let address = (Ipv4Addr::LOCALHOST, options.port).into();
    let flavor = options.flavor().unwrap_or(Flavor::CurrentThread);
    if options.bare {
        let (address, _end) = lab::serve(flavor.runtime(512)?, address, lab::bare())?;
        say(&format!("http://{address}/hello without the layer, {flavor}"))?;
        forever();
    }
    tracing_subscriber::fmt().with_max_level(LevelFilter::WARN).with_writer(io::stderr).init();
    let setup = Setup { flavor, nap: options.sleep, rescue: options.rescue.unwrap_or(true), blocking_threads: 512 };
    let service = Service::start(setup, address)?;
    say(&format!("http://{} on {flavor}, metrics at http://{}/metrics", service.address, lab::metrics()?))?;
    routes().into_iter().try_for_each(|(path, what)| say(&format!("{path:<26} {what}")))?;
    forever()
}

/// Each path once, with the first scenario that asks for it.
fn routes() -> BTreeMap<&'static str, &'static str> {
    let scenarios = SCENARIOS.iter().rev();
    scenarios
        .flat_map(|scenario| [Some(scenario.path), scenario.first].map(|path| Some((path?, scenario.what))))
        .flatten()
        .collect()
}

fn forever() -> ! {
    loop {
        std::thread::park();
    }
}

fn say(text: &str) -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

fn complain(error: &str, code: u8) -> ExitCode {
    // Where even stderr is closed, the code has to say it.
    let _ = writeln!(io::stderr(), "blocking_or_not: {error}");
    ExitCode::from(code)
}
