//! An axum service with good routes and bad ones, watched by tower-stall, under traffic of its own.
//!
//! Run with `cargo run --example demo`, and `cargo run --example demo -- --help` for the options. Within a few seconds the table
//! names the five routes that hold worker threads, and leaves the healthy ones alone. Ctrl-C ends it.
//!
//! Four groups of threads share the process and never wait for one another: the service's workers, which the bad routes hold; the
//! clients' runtime; the metrics' server; and the main thread, which draws.

mod backends;
#[path = "../common/burn.rs"]
mod burn;
mod flame;
mod options;
mod page;
mod reports;
mod screen;
mod service;
mod sick;
mod table;
mod traffic;
#[path = "../common/value.rs"]
mod value;
mod work;

use std::error::Error;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tower_stall::StallMonitor;
use tower_stall::prometheus::Server;

use self::flame::Flamegraph;
use self::options::{Command, HELP, Options};
use self::page::Page;
use self::screen::Screen;
use self::traffic::Traffic;

type Failure = Box<dyn Error>;

/// What runs; the demo ends when it is dropped.
struct Demo {
    service: Runtime,
    clients: Runtime,
    interrupted: Receiver<()>,
    page: Page,
}

fn main() -> ExitCode {
    match Options::parse(std::env::args_os().skip(1)) {
        Ok(Command::Run(options)) => exit_code(run(&options)),
        Ok(Command::Help) => exit_code(write!(io::stdout(), "{HELP}").map_err(Failure::from)),
        Err(error) => complain(&error, 2),
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let mut screen = Screen::of_stdout();
    reports::install(options.log.as_deref(), &screen)?;
    let flamegraph = options.flamegraph.as_deref().map(Flamegraph::create).transpose()?;
    let demo = Demo::start(options, &screen)?;
    demo.watch(&mut screen, options.seconds)?;
    if let Some(flamegraph) = flamegraph {
        flamegraph.draw(&demo.page.stacks())?;
    }
    demo.end(&mut screen)
}

/// A reader that has gone, as `head` does, is no failure.
fn exit_code(result: Result<(), Failure>) -> ExitCode {
    match result {
        Err(error) if !is_broken_pipe(&*error) => complain(&*error, 1),
        _ => ExitCode::SUCCESS,
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn complain(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    // Where even stderr is closed, the code has to say it.
    let _ = writeln!(io::stderr(), "demo: {error}");
    ExitCode::from(code)
}

// === impl Demo ===

impl Demo {
    fn start(options: &Options, screen: &Screen) -> Result<Self, Failure> {
        let server = serve_metrics(options.metrics_port)?;
        let service = runtime("service", options.workers)?;
        let clients = runtime("clients", 1)?;
        let monitor = watch(&service, options)?;
        let shown = monitor.clone();
        server.show_stalls(move || shown.recent_stalls());
        let address = service.block_on(service::start(local(options.port), &monitor))?;
        let traffic = options.traffic.then(|| Traffic::start(&clients, address, options.healthy));
        if options.deadlock {
            traffic::ask_once(address, "/accounts/7/transfer/7")?;
        }
        let interrupted = interrupts(&clients);
        let page = Page::new(monitor, options, address, server.local_addr(), traffic, screen.has_colors());
        Ok(Self { service, clients, interrupted, page })
    }

    fn watch(&self, screen: &mut Screen, seconds: Option<u64>) -> io::Result<()> {
        let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        screen.show(&self.page.opening())?;
        while self.wait(screen.interval(), end) {
            screen.show(&self.page.live())?;
        }
        Ok(())
    }

    /// Whether to go on.
    fn wait(&self, interval: Duration, end: Option<Instant>) -> bool {
        let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
        let outcome = self.interrupted.recv_timeout(interval.min(left));
        outcome == Err(RecvTimeoutError::Timeout) && left > interval
    }

    fn end(self, screen: &mut Screen) -> Result<(), Failure> {
        const PATIENCE: Duration = Duration::from_secs(1);
        self.clients.shutdown_timeout(PATIENCE);
        self.service.shutdown_timeout(PATIENCE);
        Ok(screen.show(&self.page.last())?)
    }
}

fn serve_metrics(port: u16) -> Result<Server, Failure> {
    Ok(tower_stall::prometheus::serve(local(port)).map_err(|error| format!("{error} (--metrics-port)"))?)
}

fn watch(service: &Runtime, options: &Options) -> Result<StallMonitor, tower_stall::SpawnError> {
    StallMonitor::builder()
        .runtime(service.handle().clone())
        .stall_threshold(options.threshold)
        .rescue(options.rescue)
        .stack_signals(options.signals)
        .spawn()
}

fn runtime(name: &str, workers: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(workers).thread_name(name).enable_all().build()
}

fn interrupts(clients: &Runtime) -> Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    clients.spawn(async move {
        while tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        // Nobody listens only when the demo ends anyway.
        let _ = sender.send(());
    });
    receiver
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
