//! HTTP/1.1: `wrk` against one server process per variant, in interleaved rounds.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};

use crate::Result;
use crate::procfs;
use crate::recorders::Recorders;
use crate::report::Table;
use crate::stats::{Quartiles, median};
use crate::variants::Variant;
use crate::workload;

const VARIANTS: [Variant; 8] = [
    Variant::BareRouter,
    Variant::Identity,
    Variant::TowerStall,
    Variant::TaskMonitor,
    Variant::CachedHandles,
    Variant::AxumPrometheus,
    Variant::TraceDisabled,
    Variant::OtelTower,
];
const IDENTITY: usize = 1;
const ROUNDS: usize = 3;
const SECONDS: u64 = 2;

/// A server process. Dropping this kills it.
struct Server {
    process: Child,
    address: String,
}

/// The result of one round of `wrk`.
struct Round {
    requests_per_second: f64,
    cpu_micros_per_request: f64,
}

/// Measures all variants with a number of worker threads.
pub fn table(workers: usize) -> Result<Table> {
    let servers: Vec<_> =
        VARIANTS.iter().map(|&variant| Server::start(variant, workers)).collect::<Result<_>>()?;
    let mut rates = VARIANTS.map(|_| Vec::new());
    let mut cpu_times = VARIANTS.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (index, server) in servers.iter().enumerate() {
            let round = server.run_wrk()?;
            rates[index].push(round.requests_per_second);
            cpu_times[index].push(round.cpu_micros_per_request);
        }
    }
    let identity = median(&cpu_times[IDENTITY]);
    let mut table = Table::new(&[
        "layer",
        "requests per second",
        "server CPU per request, µs",
        "relative to `identity`",
    ]);
    for (variant, (rates, cpu_times)) in VARIANTS.iter().zip(rates.iter().zip(&cpu_times)) {
        let cpu_time = median(cpu_times);
        table.row(&[
            variant.name().to_owned(),
            Quartiles::of(rates).to_string(),
            format!("{cpu_time:.2}"),
            format!("{:.2}", cpu_time / identity),
        ]);
    }
    Ok(table)
}

/// Prints its address and serves until it is killed.
pub fn child(variant: &str, workers: usize) {
    let variant: Variant = serde_json::from_str(variant).expect("a variant");
    let recorders = Recorders::install();
    let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let recorders = recorders.monitor_runtime(&Handle::current());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("{}", listener.local_addr().expect("a bound socket"));
        let prometheus = recorders.prometheus.clone();
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_secs(1));
                prometheus.run_upkeep();
            }
        });
        let app = variant.apply(workload::router(), &recorders);
        axum::serve(listener, app).await.expect("a running server");
    });
}

impl Server {
    fn start(variant: Variant, workers: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["child-http1", &serde_json::to_string(&variant)?, &workers.to_string()]);
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let mut address = String::new();
        let stdout = process.stdout.take().ok_or("no stdout")?;
        BufReader::new(stdout).read_line(&mut address)?;
        Ok(Self { process, address: address.trim().to_owned() })
    }

    fn run_wrk(&self) -> Result<Round> {
        let url = format!("http://{}/users/42", self.address);
        let before = procfs::process_cpu_time(self.process.id());
        let mut wrk = Command::new("wrk");
        let output = wrk.args(["-t1", "-c16", &format!("-d{SECONDS}s"), &url]).output()?;
        let cpu = procfs::process_cpu_time(self.process.id()) - before;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let mut lines = stdout.lines().map(str::trim);
        let requests: Option<f64> =
            lines.find_map(|line| line.split_once(" requests in")?.0.parse().ok());
        let rate: Option<f64> =
            lines.find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
        let (requests, requests_per_second) =
            requests.zip(rate).ok_or_else(|| format!("unexpected output of wrk: {stdout}"))?;
        let cpu_micros_per_request = cpu.as_secs_f64() * 1e6 / requests;
        Ok(Round { requests_per_second, cpu_micros_per_request })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
