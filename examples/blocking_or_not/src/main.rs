//! Does a blocking handler delay all other requests? Measures ten scenarios over real sockets, and
//! compares what tower-stall reports with what it should report.
//!
//! Run it with `cargo run --release --package blocking-or-not`. It takes about a minute and prints
//! a table, which `docs/blocking.md` explains. With `-- --serve` it only serves the routes, for
//! clients such as these, in two terminals:
//!
//! ```text
//! curl http://127.0.0.1:3000/blocking-sleep
//! curl http://127.0.0.1:3000/hello
//! ```
//!
//! The clients have a runtime of their own, on the main thread. Each experiment starts a service on
//! further threads.

#[path = "../../common/number.rs"]
mod number;
mod options;
mod table;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::process::ExitCode;

use blocking_or_not::{BoxError, Experiment, Flavor, SCENARIOS, Scenario, Service, Setup, Verdict};
use tracing_subscriber::filter::LevelFilter;

use self::options::{Command, HELP, Options};

fn main() -> ExitCode {
    let result = match Options::parse(std::env::args_os().skip(1)) {
        Ok(Command::Run(options)) if options.serve => serve(&options),
        Ok(Command::Run(options)) => run(&options),
        Ok(Command::Help) => print(HELP.trim_end()),
        Err(error) => return fail(&format_args!("{error}; see --help"), 2),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

/// Runs the experiments. Fails if the layer reports something unexpected.
fn run(options: &Options) -> Result<(), BoxError> {
    let clients = Flavor::CurrentThread.runtime(1)?;
    let mut unexpected = Vec::new();
    let experiments = experiments(options)?;
    print(&table::heading())?;
    for experiment in experiments {
        let run = experiment.run(options.sleep, options.rescue);
        let (outcome, verdict) = clients.block_on(run)?;
        print(&table::line(&experiment, &outcome, &verdict))?;
        if let Verdict::Unexpected(difference) = verdict {
            unexpected.push(format!("{}: {difference}", experiment.scenario.number));
        }
    }
    if unexpected.is_empty() { Ok(()) } else { Err(unexpected.join("\n").into()) }
}

fn experiments(options: &Options) -> Result<Vec<Experiment>, BoxError> {
    let is_selected = |scenario: &&Scenario| match &options.only {
        Some(number) => scenario.matches(number),
        None => true,
    };
    let selected = SCENARIOS.iter().filter(is_selected);
    let experiments: Vec<_> =
        selected.flat_map(|scenario| Experiment::all_of(scenario, options.flavor())).collect();
    match experiments.is_empty() {
        true => Err("no scenario with this number runs on this runtime".into()),
        false => Ok(experiments),
    }
}

/// Serves until the process is killed.
fn serve(options: &Options) -> Result<(), BoxError> {
    const BLOCKING_THREADS: usize = 512;
    let address = (Ipv4Addr::LOCALHOST, options.port).into();
    let flavor = options.flavor().unwrap_or(Flavor::CurrentThread);
    if options.bare {
        let (runtime, routes) = (flavor.runtime(BLOCKING_THREADS)?, blocking_or_not::bare_routes());
        let (address, _shutdown) = blocking_or_not::serve(runtime, address, routes)?;
        print(&format!("http://{address}/hello without the layer, {flavor}"))?;
        park_forever();
    }
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::WARN);
    subscriber.with_writer(io::stderr).init();
    let setup = Setup {
        flavor,
        sleep: options.sleep,
        rescue: options.rescue.unwrap_or(true),
        blocking_threads: BLOCKING_THREADS,
    };
    let service = Service::start(setup, address)?;
    let (address, metrics) = (service.address(), blocking_or_not::metrics_address()?);
    print(&format!("http://{address} on {flavor}, metrics at http://{metrics}/metrics"))?;
    for (path, what) in paths() {
        print(&format!("{path:<26} {what}"))?;
    }
    park_forever()
}

/// Returns each path once, with the description of the first scenario that requests it.
fn paths() -> BTreeMap<&'static str, &'static str> {
    let mut paths = BTreeMap::new();
    for scenario in SCENARIOS {
        for path in [Some(scenario.path), scenario.first].into_iter().flatten() {
            paths.entry(path).or_insert(scenario.what);
        }
    }
    paths
}

fn park_forever() -> ! {
    loop {
        std::thread::park();
    }
}

fn print(text: &str) -> Result<(), BoxError> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

fn fail(error: &dyn Display, code: u8) -> ExitCode {
    // If stderr is closed, the exit code has to suffice.
    let _ = writeln!(io::stderr(), "blocking-or-not: {error}");
    ExitCode::from(code)
}
