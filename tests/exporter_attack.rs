//! The exporter under attack must neither harm the service beside it nor fail its scraper.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]
#![cfg(all(target_os = "linux", feature = "axum", feature = "prometheus"))]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use tower_stall::prometheus::serve;

use self::support::{child_command, http_get, in_own_process, monitor_for, runtime};

/// The exporter that a child process attacks, and how.
const TARGET: &str = "TOWER_STALL_ATTACK";
/// How long the attack lasts, in seconds; a minute is the heavier proof.
const SECONDS: &str = "TOWER_STALL_ATTACK_SECONDS";

const SLOW_READERS: usize = 200;
const IDLE: usize = 600;
/// Series that make a page of 3 MB.
const SERIES: usize = 80_000;

fn duration() -> Duration {
    let seconds = std::env::var(SECONDS).ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(6))
}

/// Kills the attacker, also if the test fails.
struct Attacker(Child);

impl Drop for Attacker {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn attack(addr: SocketAddr) -> Attacker {
    let mut command = child_command("an_attack_neither_fails_the_scraper_nor_the_service");
    let child = command.env(TARGET, addr.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
    Attacker(child.spawn().unwrap())
}

/// Attacks until the process is killed.
fn run_attacker(addr: SocketAddr) -> ! {
    for _ in 0..SLOW_READERS {
        thread::spawn(move || {
            loop {
                let _ = read_slowly(addr);
            }
        });
    }
    thread::spawn(move || {
        loop {
            // Requests of clients that have gone.
            let _ = request(addr);
            thread::sleep(Duration::from_millis(2));
        }
    });
    let mut idle: Vec<TcpStream> = Vec::new();
    loop {
        idle.extend(TcpStream::connect(addr));
        if idle.len() > IDLE {
            idle.remove(0);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn request(addr: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    Ok(stream)
}

/// Reads a page with 1 KiB every 50 ms.
fn read_slowly(addr: SocketAddr) -> std::io::Result<()> {
    let mut stream = request(addr)?;
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer)? > 0 {
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn resident_mib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap() / 1024
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn an_attack_neither_fails_the_scraper_nor_the_service() {
    if let Ok(addr) = std::env::var(TARGET) {
        run_attacker(addr.parse().unwrap());
    }
    in_own_process(|| {
        let metrics = serve(([127, 0, 0, 1], 0)).unwrap().local_addr();
        for series in 0..SERIES {
            metrics::counter!("attacked_total", "series" => series.to_string()).increment(1);
        }
        let runtime = runtime(2);
        let monitor = monitor_for(&runtime);
        let app = Router::new().route("/ok", get(|| async { "ok" })).layer(monitor.layer());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let service = listener.local_addr().unwrap();
        runtime.spawn(async { axum::serve(listener, app).await });

        let page = http_get(metrics, "/metrics").body;
        let size = (page.len() >> 20) as i64;
        drop(page);
        let (memory, files) = (resident_mib(), open_files());
        let _attacker = attack(metrics);
        let (mut most_memory, mut most_files, mut slowest) = (0, 0, Duration::ZERO);
        let (start, mut scrapes) = (Instant::now(), 0);
        while start.elapsed() < duration() {
            let scrape = Instant::now();
            // Both fail the test unless the whole response arrives.
            let page = http_get(metrics, "/metrics").body;
            slowest = slowest.max(scrape.elapsed());
            assert!(page.contains(&format!("attacked_total{{series=\"{}\"}} 1", SERIES - 1)));
            assert_eq!(http_get(service, "/ok").body, "ok");
            most_memory = most_memory.max(resident_mib() - memory);
            most_files = most_files.max(open_files() - files);
            scrapes += 1;
            thread::sleep(Duration::from_secs(1).saturating_sub(scrape.elapsed()));
        }
        println!(
            "{scrapes} scrapes of {size} MiB, the slowest took {slowest:?}; \
             at most {most_memory} MiB and {most_files} files more"
        );
        // 128 connections, the scraper's ends, and those of a request to the service.
        assert!((64..=140).contains(&most_files), "{most_files} files more");
        // Of 200 copies, one for each reader, there is room for a few.
        assert!(most_memory < 12 * size + 32, "{most_memory} MiB more");
    });
}
