//! What tower-stall costs, beside its neighbours. `./x bench` runs all and writes the tables of `BENCHMARKS.md`.

mod allocations;
mod around;
mod floor;
mod gauges;
mod growth;
mod instructions;
mod least;
mod load;
mod page;
mod proc;
mod rest;
mod server;
mod stats;
mod steps;
mod subject;
mod time;
mod variants;
mod wrapped;

use std::task::Context;

use load::Work;
use page::{Result, Table};
use subject::Subject;
use variants::{Recorders, Variant};

type Part = fn() -> Result<()>;

const PARTS: [(&str, Part); 6] = [
    ("instructions", instructions::part),
    ("time", times),
    ("threads", threads),
    ("growth", growth::part),
    ("watching", rest::part),
    ("servers", server::part),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["child-steps", variant, work] => steps::child(variant, work),
        ["child-loop", variant, work, times] => steps::run(variant, work, times.parse()?),
        ["child-routes", count] => growth::routes(count.parse()?),
        ["child-flight", count] => growth::flight(count.parse()?),
        ["child-memory", which] => growth::memory(which.parse()?),
        ["child-rate", rate] => rest::rate(rate.parse()?),
        ["child-sight", later] => rest::sight(later.parse()?),
        ["child-gauge", stalls] => rest::gauge(stalls.parse()?),
        ["child-report", stalls] => rest::report(stalls.parse()?),
        ["child-serve", variant, workers] => server::serve(variant, workers.parse()?),
        ["child-http2", which] => server::http2(which.parse()?),
        ["guard"] => instructions::guard(false)?,
        ["guard", "renew"] => instructions::guard(true)?,
        ["check"] => check(&Recorders::install())?,
        [] => PARTS.iter().try_for_each(|(name, _)| alone(name))?,
        [name] => {
            let (_, part) = PARTS.iter().find(|(part, _)| *part == name).ok_or_else(usage)?;
            part()?;
        }
        ref named => named.iter().try_for_each(|name| alone(name))?,
    }
    Ok(())
}

fn usage() -> String {
    let parts: Vec<_> = PARTS.iter().map(|(name, _)| *name).collect();
    format!("the parts are {}, and there are `check` and `guard`", parts.join(", "))
}

/// Runs a part in a process of its own: recorders are one for a process.
fn alone(name: &str) -> Result<()> {
    println!("== {name}");
    let start = std::time::Instant::now();
    let status = std::process::Command::new(std::env::current_exe()?).arg(name).status()?;
    if !status.success() {
        return Err(format!("{name} failed").into());
    }
    println!("   {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Shows that each variant records: as many requests as were made.
fn check(recorders: &Recorders) -> Result<()> {
    const REQUESTS: u64 = 100;
    let waker = load::waker();
    let mut cx = Context::from_waker(&waker);
    for variant in Variant::ALL {
        let mut subject = Subject::new(variant, Work::Ready, recorders);
        let before = variant.recorded(recorders);
        subject.warm_up(REQUESTS as usize, &mut cx);
        let recorded = variant.recorded(recorders).zip(before).map(|(after, before)| after - before);
        if recorded.is_some_and(|recorded| recorded != REQUESTS) {
            return Err(format!("{} recorded {recorded:?} of {REQUESTS} requests", variant.name()).into());
        }
    }
    Ok(())
}

fn times() -> Result<()> {
    let recorders = Recorders::install();
    check(&recorders)?;
    let works = [Work::Ready, Work::Waits, Work::Stream, Work::Task];
    let costs = works.map(|work| time::costs(work, &recorders));
    let columns = [
        "",
        "ready, ns",
        "over `identity`",
        "to tokio-metrics",
        "allocations",
        "bytes",
        "10 waits, over `identity`",
        "a stream of 100 frames, over `identity`",
        "a task of 10 waits, over a bare one",
    ];
    let mut table = Table::new(&columns);
    let neighbour = Variant::ALL.iter().position(|&variant| variant == Variant::TokioMetrics).unwrap_or_default();
    for (at, variant) in Variant::ALL.into_iter().enumerate() {
        let [ready, waits, stream, task] = costs.each_ref().map(|costs| &costs[at]);
        let ratio = ready.over_identity.median / costs[0][neighbour].over_identity.median;
        let is_task = matches!(variant, Variant::TowerStall | Variant::TokioMetrics | Variant::FutureMonitor);
        table.row(&[
            variant.name().to_owned(),
            ready.nanos.to_string(),
            ready.over_identity.to_string(),
            format!("{ratio:.2}"),
            format!("{:.2}", ready.allocations),
            format!("{:.0}", ready.bytes),
            waits.over_identity.to_string(),
            stream.over_identity.to_string(),
            if is_task { task.over_identity.to_string() } else { String::new() },
        ]);
    }
    page::write("time", &table.to_string())
}

fn threads() -> Result<()> {
    let recorders = Recorders::install();
    let mut table =
        Table::new(&["", "ready: 1 thread, ns", "2 threads", "ratio", "10 waits: 1 thread, ns", "2 threads", "ratio"]);
    for variant in Variant::ALL {
        let mut cells = vec![variant.name().to_owned()];
        for work in [Work::Ready, Work::Waits] {
            let (one, two) = time::one_and_two_threads(variant, work, &recorders);
            cells.extend([format!("{one:.0}"), format!("{two:.0}"), format!("{:.2}", two / one)]);
        }
        table.row(&cells);
    }
    page::write("threads", &table.to_string())
}
