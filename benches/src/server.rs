//! Whole servers over sockets: `wrk` against each, turn and turn about, and one connection of HTTP/2 with many streams.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::body::Body;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::load;
use crate::page::{self, Result, Table};
use crate::proc;
use crate::stats::{Spread, median};
use crate::variants::{Recorders, Variant};

const VARIANTS: [Variant; 8] = [
    Variant::Bare,
    Variant::Identity,
    Variant::TowerStall,
    Variant::TokioMetrics,
    Variant::CachedHandles,
    Variant::AxumPrometheus,
    Variant::TraceOff,
    Variant::OtelTower,
];
const HTTP2: [Variant; 3] = [Variant::Identity, Variant::TowerStall, Variant::TokioMetrics];
const ROUNDS: usize = 3;
const SECONDS: u64 = 2;

/// A server in a process of its own. It is stopped when this is dropped.
struct Server {
    child: Child,
    address: String,
}

/// What a round of load told.
struct Round {
    per_second: f64,
    cpu_micros: f64,
}

pub fn part() -> Result<()> {
    let mut text = String::new();
    for workers in [1, 2] {
        let servers = VARIANTS.iter().map(|&variant| Server::start(variant, workers)).collect::<Result<Vec<_>>>()?;
        let mut rounds: Vec<Vec<Round>> = VARIANTS.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for (server, rounds) in servers.iter().zip(&mut rounds) {
                rounds.push(server.load()?);
            }
        }
        let base = median(&rounds[1].iter().map(|round| round.cpu_micros).collect::<Vec<_>>());
        let columns = ["", "requests a second", "µs of the server's CPU a request", "to that of `identity`"];
        let mut table = Table::new(&columns);
        for (variant, rounds) in VARIANTS.iter().zip(&rounds) {
            let rate: Vec<f64> = rounds.iter().map(|round| round.per_second).collect();
            let cpu: Vec<f64> = rounds.iter().map(|round| round.cpu_micros).collect();
            table.row(&[
                variant.name().to_owned(),
                Spread::of(&rate).to_string(),
                format!("{:.2}", median(&cpu)),
                format!("{:.2}", median(&cpu) / base),
            ]);
        }
        text += &format!("{workers} worker{}:\n\n{table}\n", if workers == 1 { "" } else { "s" });
    }
    let mut http2 = Table::new(&["HTTP/2, one connection, 32 streams at a time", "µs a request"]);
    for at in 0..HTTP2.len() {
        http2.row(&crate::growth::in_child("http2", at)?);
    }
    page::write("servers", &format!("{text}{http2}"))
}

/// Serves until it is killed. Tells its address first.
pub fn serve(variant: &str, workers: usize) {
    let variant = serde_json::from_str::<Variant>(variant).expect("a variant");
    let recorders = Recorders::install();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let recorders = recorders.watching(&tokio::runtime::Handle::current());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        let upkeep = recorders.prometheus.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                upkeep.run_upkeep();
            }
        });
        let app = variant.around(load::routes(), &recorders);
        axum::serve(listener, app).await.expect("to serve");
    });
}

/// Both ends of a connection of HTTP/2, on two workers.
pub fn http2(which: usize) {
    const STREAMS: usize = 32;
    let variant = HTTP2[which];
    let recorders = Recorders::install();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let micros = runtime.block_on(async {
        let recorders = recorders.watching(&tokio::runtime::Handle::current());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let app = variant.around(load::routes(), &recorders);
        tokio::spawn(async move { axum::serve(listener, app).await });
        let socket = TokioIo::new(tokio::net::TcpStream::connect(address).await.expect("a connection"));
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await.expect("HTTP/2");
        tokio::spawn(connection);
        let mut rounds = Vec::new();
        for _ in 0..30 {
            let start = Instant::now();
            let streams: Vec<_> =
                (0..STREAMS).map(|_| tokio::spawn(requests(sender.clone(), address.to_string()))).collect();
            let mut done = 0;
            for stream in streams {
                done += stream.await.expect("a stream");
            }
            rounds.push(start.elapsed().as_secs_f64() * 1e6 / f64::from(done));
        }
        Spread::of(&rounds)
    });
    let cell = format!("{:.2} ({:.2}…{:.2})", micros.median, micros.low, micros.high);
    crate::growth::print_row(&[variant.name().to_owned(), cell]);
}

/// Fifty requests, one after the other.
async fn requests(mut sender: hyper::client::conn::http2::SendRequest<Body>, address: String) -> u32 {
    for _ in 0..50 {
        let request = http::Request::get(format!("http://{address}/users/42")).body(Body::empty()).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        answer.into_body().collect().await.expect("a body");
    }
    50
}

// === impl Server ===

impl Server {
    fn start(variant: Variant, workers: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["child-serve", &serde_json::to_string(&variant)?, &workers.to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut address = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut address)?;
        Ok(Self { child, address: address.trim().to_owned() })
    }

    fn load(&self) -> Result<Round> {
        let url = format!("http://{}/users/42", self.address);
        let before = proc::process_cpu(self.child.id());
        let output = Command::new("wrk").args(["-t1", "-c16", &format!("-d{SECONDS}s"), &url]).output()?;
        let cpu = proc::process_cpu(self.child.id()) - before;
        let told = String::from_utf8_lossy(&output.stdout);
        let number =
            |prefix: &str| told.lines().find_map(|line| line.trim().strip_prefix(prefix)?.trim().parse::<f64>().ok());
        let per_second = number("Requests/sec:").ok_or_else(|| told.to_string())?;
        let requests = told.lines().find_map(|line| line.trim().split_once(" requests in")?.0.parse::<f64>().ok());
        Ok(Round { per_second, cpu_micros: cpu.as_secs_f64() * 1e6 / requests.ok_or("no count")? })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
