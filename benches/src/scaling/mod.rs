//! How the costs grow with routes, with requests in flight and over time.

pub mod in_flight;
pub mod memory;
pub mod routes;

mod export;

use crate::Result;
use crate::child;
use crate::report::{self, Table};

pub fn part() -> Result<()> {
    let mut routes = Table::new(&[
        "routes, used in turn",
        "tower-stall, ns over `identity`",
        "cached handles, ns over `identity`",
        "axum-prometheus, ns over `identity`",
        "tower-stall memory per thread, KiB",
        "scrape, ms",
        "lines scraped",
        "reporter CPU, ms/s",
    ]);
    for count in [1, 10, 100, 512, 600] {
        routes.row(&child::row("routes", count)?);
    }
    let mut in_flight = Table::new(&[
        "requests in flight",
        "ready request, ns over `identity`",
        "bytes per request in flight, over `identity`",
        "scrape, ms",
        "lines scraped",
        "reporter CPU, ms/s",
    ]);
    for count in [1, 100, 10_000] {
        in_flight.row(&child::row("in-flight", count)?);
    }
    let mut memory = Table::new(&[
        "10 million polls, not scraped",
        "resident memory before, MiB",
        "resident memory after, MiB",
    ]);
    for index in 0..memory::CASES.len() {
        memory.row(&child::row("memory", index)?);
    }
    report::write("scaling", &format!("{routes}\n{in_flight}\n{memory}"))
}
