//! Nanoseconds and allocations per request. All variants run interleaved in one process.

use std::task::Context;
use std::time::Instant;

use crate::Result;
use crate::allocations;
use crate::benchmark::{BATCH, Benchmark};
use crate::check;
use crate::executor;
use crate::recorders::Recorders;
use crate::report::{self, Table};
use crate::stats::Quartiles;
use crate::variants::Variant;
use crate::workload::Workload;

const ROUNDS: usize = 41;

/// The cost of one request.
struct Cost {
    nanos: Quartiles,
    /// The differences between the variant and `identity` in the same round.
    over_identity: Quartiles,
    allocations: f64,
    bytes: f64,
}

pub fn part() -> Result<()> {
    let recorders = Recorders::install();
    check::all_variants_record(&recorders)?;
    let workloads = [Workload::Ready, Workload::Waits, Workload::Stream, Workload::Task];
    let costs = workloads.map(|workload| measure(workload, &recorders));
    let mut table = Table::new(&[
        "layer",
        "ready request, ns",
        "over `identity`, ns",
        "overhead relative to `TaskMonitor`",
        "allocations",
        "bytes",
        "10 waits, over `identity`, ns",
        "stream of 100 frames, over `identity`, ns",
        "task with 10 waits, over a bare task, ns",
    ]);
    let task_monitor = &costs[0][position(Variant::TaskMonitor)];
    for (index, variant) in Variant::ALL.into_iter().enumerate() {
        let [ready, waits, stream, task] = costs.each_ref().map(|costs| &costs[index]);
        let ratio = ready.over_identity.median / task_monitor.over_identity.median;
        table.row(&[
            variant.name().to_owned(),
            ready.nanos.to_string(),
            ready.over_identity.to_string(),
            format!("{ratio:.2}"),
            format!("{:.2}", ready.allocations),
            format!("{:.0}", ready.bytes),
            waits.over_identity.to_string(),
            stream.over_identity.to_string(),
            if variant.measures_tasks() { task.over_identity.to_string() } else { String::new() },
        ]);
    }
    report::write("time", &table.to_string())
}

/// Measures all variants, in the order of [`Variant::ALL`].
fn measure(workload: Workload, recorders: &Recorders) -> Vec<Cost> {
    let waker = executor::waker();
    let mut cx = Context::from_waker(&waker);
    let benchmark = |variant| Benchmark::new(variant, workload, recorders);
    let mut benchmarks: Vec<_> = Variant::ALL.into_iter().map(benchmark).collect();
    benchmarks.iter_mut().for_each(|benchmark| benchmark.warm_up(BATCH, &mut cx));
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); benchmarks.len()];
    let mut allocated = vec![(0, 0); benchmarks.len()];
    for _ in 0..ROUNDS {
        let results = times.iter_mut().zip(&mut allocated);
        for (benchmark, (times, allocated)) in benchmarks.iter_mut().zip(results) {
            let requests: Vec<_> = (0..BATCH).map(|_| benchmark.prepare()).collect();
            let before = allocations::totals();
            let start = Instant::now();
            for request in requests {
                benchmark.run(request, &mut cx);
            }
            times.push(start.elapsed().as_nanos() as f64 / BATCH as f64);
            let after = allocations::totals();
            *allocated = (after.0 - before.0, after.1 - before.1);
        }
        // The samples that the `metrics` recorder accumulates would slow the next round down.
        recorders.prometheus.run_upkeep();
    }
    let identity = &times[position(Variant::Identity)];
    let cost = |(times, (count, bytes)): (&Vec<f64>, (u64, u64))| {
        let over: Vec<f64> = times.iter().zip(identity).map(|(time, base)| time - base).collect();
        Cost {
            nanos: Quartiles::of(times),
            over_identity: Quartiles::of(&over),
            allocations: count as f64 / BATCH as f64,
            bytes: bytes as f64 / BATCH as f64,
        }
    };
    times.iter().zip(allocated).map(cost).collect()
}

fn position(variant: Variant) -> usize {
    Variant::ALL.iter().position(|&other| other == variant).expect("`ALL` has every variant")
}
