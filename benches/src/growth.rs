//! How the costs grow: with routes, with requests in flight, with time.

use std::pin::Pin;
use std::process::Command;
use std::task::Context;
use std::time::{Duration, Instant};

use axum::Router;
use tower::Service;

use crate::allocations;
use crate::load::{self, Work};
use crate::page::{self, Result, Table};
use crate::proc;
use crate::stats::median;
use crate::subject::Subject;
use crate::variants::{Recorders, Variant};

const COMPARED: [Variant; 3] = [Variant::TowerStall, Variant::CachedHandles, Variant::AxumPrometheus];

pub fn part() -> Result<()> {
    let mut routes = Table::new(&[
        "routes in turn",
        "tower-stall, ns over `identity`",
        "cached handles",
        "axum-prometheus",
        "tower-stall on a thread, KiB",
        "scrape, ms",
        "lines",
        "reporter, ms of CPU a second",
    ]);
    for count in [1, 10, 100, 512, 600] {
        routes.row(&in_child("routes", count)?);
    }
    let mut flight = Table::new(&[
        "requests in flight",
        "a request, ns over `identity`",
        "bytes each, over `identity`",
        "scrape, ms",
        "lines",
        "reporter, ms of CPU a second",
    ]);
    for count in [1, 100, 10_000] {
        flight.row(&in_child("flight", count)?);
    }
    let mut memory = Table::new(&["10 million polls, nothing scraped", "resident memory before, MiB", "after, MiB"]);
    for which in 0..4 {
        memory.row(&in_child("memory", which)?);
    }
    let text = format!("{routes}\n{flight}\n{memory}");
    page::write("growth", &text)
}

/// Runs this program again, as a recorder and its routes are one for a process, and takes the cells of a row from it.
pub fn in_child(what: &str, count: usize) -> Result<Vec<String>> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.args([&format!("child-{what}"), &count.to_string()]).output()?;
    let told = String::from_utf8(output.stdout)?;
    let failed = || format!("{what} {count}: {}", String::from_utf8_lossy(&output.stderr));
    let row = told.lines().find_map(|line| line.strip_prefix("ROW ")).ok_or_else(failed)?;
    Ok(row.split('\t').map(str::to_owned).collect())
}

pub fn print_row(cells: &[String]) {
    println!("ROW {}", cells.join("\t"));
}

/// Many routes, each request to another one than the last.
pub fn routes(count: usize) {
    let recorders = Recorders::install();
    let waker = load::waker();
    let mut cx = Context::from_waker(&waker);
    // A stride that shares no factor with the number of routes, so that no two neighbours follow each other.
    let paths: Vec<_> = (0..count).map(|at| format!("/route/{}/42", at * 7919 % count)).collect();
    let build = |variant: Variant| variant.around(load::many_routes(count), &recorders).with_state(());
    let mut identity = build(Variant::Identity);
    let mut others = COMPARED.map(build);
    let held = {
        let fresh = recorders.monitor.clone();
        let mut router = load::many_routes(count).layer(fresh.layer()).with_state(());
        let paths = paths.clone();
        // On a thread that has met none of the routes yet.
        let bytes = std::thread::spawn(move || {
            let waker = load::waker();
            let mut cx = Context::from_waker(&waker);
            let before = allocations::held();
            round(&mut router, &paths, &mut cx);
            (allocations::held() - before) as f64
        });
        bytes.join().expect("a thread") / 1024.0
    };
    let mut over = COMPARED.map(|_| Vec::new());
    for _ in 0..21 {
        let base = round(&mut identity, &paths, &mut cx);
        for (router, over) in others.iter_mut().zip(&mut over) {
            over.push(round(router, &paths, &mut cx) - base);
        }
        recorders.prometheus.run_upkeep();
    }
    let exports = exports(&recorders, || _ = round(&mut others[0], &paths, &mut cx));
    let name = if count > 512 { format!("{count}, past the cap") } else { count.to_string() };
    let mut row = vec![name];
    row.extend(over.iter().map(|over| format!("{:+.0}", median(over))));
    row.push(format!("{held:.0}"));
    row.extend(exports);
    print_row(&row);
}

/// What it takes to export, while there are requests: a scrape's time, its lines, and the reporter's time in a second.
fn exports(recorders: &Recorders, mut requests: impl FnMut()) -> [String; 3] {
    const SECONDS: u32 = 3;
    let reporter = || proc::thread_cpu("tower-stall-report");
    let before = reporter();
    for _ in 0..SECONDS * 10 {
        requests();
        std::thread::sleep(Duration::from_millis(100));
    }
    let reporter = (reporter() - before).as_secs_f64() * 1e3 / f64::from(SECONDS);
    recorders.prometheus.run_upkeep();
    let start = Instant::now();
    let text = recorders.prometheus.render();
    let scrape = start.elapsed().as_secs_f64() * 1e3;
    let lines = text.lines().filter(|line| line.starts_with("tower_stall_")).count();
    [format!("{scrape:.1}"), lines.to_string(), format!("{reporter:.2}")]
}

/// Nanoseconds of a request, one to each path, or some times over.
fn round(router: &mut Router, paths: &[String], cx: &mut Context<'_>) -> f64 {
    let times = (400 / paths.len()).max(1);
    let requests: Vec<_> = (0..times).flat_map(|_| paths.iter().map(|path| load::request(path))).collect();
    let count = requests.len();
    let start = Instant::now();
    requests.into_iter().for_each(|request| load::drive(router, request, cx));
    start.elapsed().as_nanos() as f64 / count as f64
}

/// Many requests that wait, and one that does not.
pub fn flight(count: usize) {
    let recorders = Recorders::install();
    let waker = load::waker();
    let mut cx = Context::from_waker(&waker);
    let mut hold = |variant: Variant| {
        let mut router = variant.around(load::routes(), &recorders).with_state(());
        let (mut held, before) = (Vec::with_capacity(count), allocations::held());
        for _ in 0..count {
            let mut call: Pin<Box<_>> = Box::pin(Service::call(&mut router, Work::Waits.request()));
            assert!(call.as_mut().poll(&mut cx).is_pending());
            held.push(call);
        }
        (held, (allocations::held() - before) as f64 / count as f64)
    };
    let (_identity, base) = hold(Variant::Identity);
    let (_own, bytes) = hold(Variant::TowerStall);
    let [mut identity, mut own] =
        [Variant::Identity, Variant::TowerStall].map(|v| Subject::new(v, Work::Ready, &recorders));
    let over: Vec<f64> = (0..21).map(|_| -batch(&mut identity, &mut cx) + batch(&mut own, &mut cx)).collect();
    let mut row = vec![count.to_string(), format!("{:+.0}", median(&over)), format!("{:+.0}", bytes - base)];
    row.extend(exports(&recorders, || _ = batch(&mut own, &mut cx)));
    print_row(&row);
}

fn batch(subject: &mut Subject, cx: &mut Context<'_>) -> f64 {
    const BATCH: usize = 400;
    let requests: Vec<_> = (0..BATCH).map(|_| subject.prepare()).collect();
    let start = Instant::now();
    requests.into_iter().for_each(|request| subject.run(request, cx));
    start.elapsed().as_nanos() as f64 / BATCH as f64
}

/// Ten million polls, and nobody asks for the metrics.
pub fn memory(which: usize) {
    const POLLS: usize = 10_000_000;
    let (variant, name) = [
        (Variant::TowerStall, "tower-stall, `prometheus::serve`"),
        (Variant::TowerStall, "tower-stall, another exporter, upkeep each 5 s"),
        (Variant::TowerStall, "tower-stall, another exporter, no upkeep ever"),
        (Variant::CachedHandles, "cached handles, no upkeep ever"),
    ][which];
    let recorders = if which == 0 { Recorders::serving() } else { Recorders::install() };
    if which == 1 {
        let upkeep = recorders.prometheus.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(5));
                upkeep.run_upkeep();
            }
        });
    }
    let waker = load::waker();
    let mut cx = Context::from_waker(&waker);
    // Of tower-stall a request that waits is that many polls and the call; of the neighbour each request is one sample.
    let (work, each) = if variant == Variant::TowerStall { (Work::Waits, load::WAITS + 3) } else { (Work::Ready, 1) };
    let mut subject = Subject::new(variant, work, &recorders);
    subject.warm_up(1_000, &mut cx);
    let before = proc::resident_mib();
    subject.warm_up(POLLS / each, &mut cx);
    // The reporter hands over once a second, at least.
    std::thread::sleep(Duration::from_millis(2_500));
    print_row(&[name.to_owned(), format!("{before:.1}"), format!("{:.1}", proc::resident_mib())]);
}
