//! Benchmarks of tower-stall and of comparable middleware.
//!
//! `./x bench` runs every part and rewrites the tables of `BENCHMARKS.md`.

mod allocations;
mod baseline;
mod benchmark;
mod callgrind;
mod check;
mod child;
mod executor;
mod gauge_recorder;
mod instructions;
mod layers;
mod procfs;
mod recorders;
mod report;
mod scaling;
mod servers;
mod single_step;
mod stats;
mod threads;
mod time;
mod variants;
mod watchdog;
mod workload;

use std::process::Command;
use std::time::Instant;

use recorders::Recorders;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Measures one section of `BENCHMARKS.md` and rewrites it.
type Part = fn() -> Result<()>;

const PARTS: [(&str, Part); 6] = [
    ("instructions", instructions::part),
    ("time", time::part),
    ("threads", threads::part),
    ("scaling", scaling::part),
    ("watchdog", watchdog::part),
    ("servers", servers::part),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["child-single-step", variant, workload] => single_step::child(variant, workload),
        ["child-callgrind", variant, workload, requests] => {
            callgrind::child(variant, workload, requests.parse()?);
        }
        ["child-routes", count] => scaling::routes::child(count.parse()?),
        ["child-in-flight", count] => scaling::in_flight::child(count.parse()?),
        ["child-memory", index] => scaling::memory::child(index.parse()?),
        ["child-overhead", rate] => watchdog::overhead::child(rate.parse()?),
        ["child-attribution", excess] => watchdog::detection::attribution(excess.parse()?),
        ["child-gauge-latency", stalls] => watchdog::detection::gauge_latency(stalls.parse()?),
        ["child-report-latency", stalls] => watchdog::detection::report_latency(stalls.parse()?),
        ["child-http1", variant, workers] => servers::http1::child(variant, workers.parse()?),
        ["child-http2", index] => servers::http2::child(index.parse()?),
        ["guard"] => baseline::check()?,
        ["guard", "--update"] => baseline::update()?,
        ["check"] => check::all_variants_record(&Recorders::install())?,
        [] => PARTS.iter().try_for_each(|(name, _)| run_in_child(name))?,
        [name] => {
            let (_, part) = PARTS.iter().find(|(part, _)| *part == name).ok_or_else(usage)?;
            part()?;
        }
        ref names => names.iter().try_for_each(|name| run_in_child(name))?,
    }
    Ok(())
}

fn usage() -> String {
    let parts: Vec<_> = PARTS.iter().map(|(name, _)| *name).collect();
    format!("expected any of the parts {}, or `check`, or `guard [--update]`", parts.join(", "))
}

/// Runs a part in a child process, because recorders are global to a process.
fn run_in_child(name: &str) -> Result<()> {
    println!("== {name}");
    let start = Instant::now();
    let status = Command::new(std::env::current_exe()?).arg(name).status()?;
    if !status.success() {
        return Err(format!("{name} failed").into());
    }
    println!("   {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}
