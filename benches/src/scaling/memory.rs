//! Resident memory after ten million polls without a scrape.

use std::task::Context;
use std::thread;
use std::time::Duration;

use crate::benchmark::Benchmark;
use crate::child;
use crate::executor;
use crate::procfs;
use crate::recorders::Recorders;
use crate::variants::Variant;
use crate::workload::{WAITS, Workload};

const POLLS: usize = 10_000_000;

pub const CASES: [Case; 4] = [
    Case {
        name: "tower-stall, `prometheus::serve`",
        variant: Variant::TowerStall,
        exporter: Exporter::Server,
    },
    Case {
        name: "tower-stall, another exporter, upkeep every 5 s",
        variant: Variant::TowerStall,
        exporter: Exporter::WithUpkeep,
    },
    Case {
        name: "tower-stall, another exporter, no upkeep",
        variant: Variant::TowerStall,
        exporter: Exporter::WithoutUpkeep,
    },
    Case {
        name: "cached handles, no upkeep",
        variant: Variant::CachedHandles,
        exporter: Exporter::WithoutUpkeep,
    },
];

pub struct Case {
    name: &'static str,
    variant: Variant,
    exporter: Exporter,
}

enum Exporter {
    /// `prometheus::serve`, which runs its own upkeep.
    Server,
    WithUpkeep,
    WithoutUpkeep,
}

pub fn child(index: usize) {
    let Case { name, variant, exporter } = &CASES[index];
    let recorders = match exporter {
        Exporter::Server => Recorders::install_server(),
        Exporter::WithUpkeep | Exporter::WithoutUpkeep => Recorders::install(),
    };
    if matches!(exporter, Exporter::WithUpkeep) {
        let prometheus = recorders.prometheus.clone();
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_secs(5));
                prometheus.run_upkeep();
            }
        });
    }
    let waker = executor::waker();
    let mut cx = Context::from_waker(&waker);
    // tower-stall samples every poll: the call, the future until it is ready, and the body. Cached
    // handles record one sample per request.
    let (workload, samples) = match variant {
        Variant::TowerStall => (Workload::Waits, WAITS + 3),
        _ => (Workload::Ready, 1),
    };
    let mut benchmark = Benchmark::new(*variant, workload, &recorders);
    benchmark.warm_up(1_000, &mut cx);
    let before = procfs::resident_memory_mib();
    benchmark.warm_up(POLLS / samples, &mut cx);
    // The reporter flushes at least once a second.
    thread::sleep(Duration::from_millis(2_500));
    let after = procfs::resident_memory_mib();
    child::print_row(&[(*name).to_owned(), format!("{before:.1}"), format!("{after:.1}")]);
}
