//! An axum service with blocking and non-blocking routes, monitored by tower-stall, under
//! generated load.
//!
//! Run it with `cargo run --example demo`, or with `cargo run --example demo -- --help` for the
//! options. Within a few seconds the table shows the five routes that stall worker threads, and
//! for how long. The non-blocking routes have no stalls. Ctrl-C ends the demo.
//!
//! The process has four groups of threads that never wait for each other: the worker threads of
//! the service, which the blocking routes stall; the runtime of the clients; the metrics server;
//! and the main thread, which draws the table.

mod backends;
mod blocking;
#[path = "../common/burn.rs"]
mod burn;
#[path = "../common/number.rs"]
mod number;
mod options;
mod page;
mod reports;
mod screen;
mod service;
mod table;
mod traffic;
mod work;

use std::error::Error;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tower_stall::StallMonitor;
use tower_stall::prometheus::Server;

use self::options::{Command, HELP, Options};
use self::page::Page;
use self::screen::Screen;
use self::traffic::Traffic;

type BoxError = Box<dyn Error>;

/// The running demo. Dropping it stops the service and the clients.
struct Demo {
    service: Runtime,
    clients: Runtime,
    interrupted: Receiver<()>,
    page: Page,
}

fn main() -> ExitCode {
    match Options::parse(std::env::args_os().skip(1)) {
        Ok(Command::Run(options)) => exit_code(run(&options)),
        Ok(Command::Help) => exit_code(write!(io::stdout(), "{HELP}").map_err(BoxError::from)),
        Err(error) => fail(&format_args!("{error}; see --help"), 2),
    }
}

fn run(options: &Options) -> Result<(), BoxError> {
    let mut screen = Screen::stdout();
    reports::install(options.log.as_deref(), &screen)?;
    // Created first, so that a wrong path fails at once and not at the end.
    let collapsed = options.collapsed_stacks.as_deref().map(create).transpose()?;
    let demo = Demo::start(options, &screen)?;
    demo.show(&mut screen, options.seconds)?;
    if let Some(mut file) = collapsed {
        file.write_all(demo.page.collapsed_stacks().as_bytes())?;
    }
    demo.stop(&mut screen)
}

fn create(path: &Path) -> Result<File, String> {
    File::create(path).map_err(|error| format!("--collapsed-stacks {}: {error}", path.display()))
}

/// Treats a closed stdout, as after `| head`, as success.
fn exit_code(result: Result<(), BoxError>) -> ExitCode {
    match result {
        Err(error) if !is_broken_pipe(&*error) => fail(&error, 1),
        _ => ExitCode::SUCCESS,
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn fail(error: &dyn Display, code: u8) -> ExitCode {
    // If stderr is closed, too, the exit code has to suffice.
    let _ = writeln!(io::stderr(), "demo: {error}");
    ExitCode::from(code)
}

// === impl Demo ===

impl Demo {
    fn start(options: &Options, screen: &Screen) -> Result<Self, BoxError> {
        let server = serve_metrics(options.metrics_port)?;
        let service = runtime("service", options.workers)?;
        let clients = runtime("clients", 1)?;
        let monitor = spawn_monitor(&service, options)?;
        server.show(&monitor);
        let address = service.block_on(service::start(local(options.port), &monitor))?;
        let start_traffic = || Traffic::start(&clients, address, options.blocking);
        let traffic = options.traffic.then(start_traffic);
        if options.deadlock {
            traffic::send_without_waiting(address, "/accounts/7/transfer/7")?;
        }
        let interrupted = interrupts(&clients);
        let colors = screen.has_colors();
        let page = Page::new(monitor, options, address, server.local_addr(), traffic, colors);
        Ok(Self { service, clients, interrupted, page })
    }

    /// Redraws the page until Ctrl-C, or for a number of seconds.
    fn show(&self, screen: &mut Screen, seconds: Option<u64>) -> io::Result<()> {
        let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        screen.show(&self.page.opening())?;
        while self.wait(screen.interval(), end) {
            screen.show(&self.page.live())?;
        }
        Ok(())
    }

    /// Waits for an interval. Returns whether the demo should continue.
    fn wait(&self, interval: Duration, end: Option<Instant>) -> bool {
        let now = Instant::now();
        let remaining = end.map_or(Duration::MAX, |end| end.saturating_duration_since(now));
        let outcome = self.interrupted.recv_timeout(interval.min(remaining));
        outcome == Err(RecvTimeoutError::Timeout) && remaining > interval
    }

    fn stop(self, screen: &mut Screen) -> Result<(), BoxError> {
        const TIMEOUT: Duration = Duration::from_secs(1);
        self.clients.shutdown_timeout(TIMEOUT);
        self.service.shutdown_timeout(TIMEOUT);
        Ok(screen.show(&self.page.last())?)
    }
}

fn serve_metrics(port: u16) -> Result<Server, BoxError> {
    let server = tower_stall::prometheus::serve(local(port));
    Ok(server.map_err(|error| format!("{error} (--metrics-port)"))?)
}

fn spawn_monitor(service: &Runtime, options: &Options) -> Result<StallMonitor, tower_stall::Error> {
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

/// Returns a channel that receives a message at Ctrl-C.
fn interrupts(clients: &Runtime) -> Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    clients.spawn(async move {
        while tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        // Sending only fails once the demo is stopping.
        let _ = sender.send(());
    });
    receiver
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
