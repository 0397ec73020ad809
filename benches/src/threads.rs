//! Nanoseconds per request on one thread and on two threads that share a router.

use std::sync::Barrier;
use std::task::Context;
use std::thread;

use crate::Result;
use crate::benchmark::{BATCH, Benchmark};
use crate::executor;
use crate::recorders::Recorders;
use crate::report::{self, Table};
use crate::stats::median;
use crate::variants::Variant;
use crate::workload::Workload;

const ROUNDS: usize = 9;
const BATCHES: usize = 12;

pub fn part() -> Result<()> {
    let recorders = Recorders::install();
    let mut table = Table::new(&[
        "layer",
        "ready request: 1 thread, ns",
        "2 threads, ns",
        "ratio",
        "10 waits: 1 thread, ns",
        "2 threads, ns",
        "ratio",
    ]);
    for variant in Variant::ALL {
        let mut cells = vec![variant.name().to_owned()];
        for workload in [Workload::Ready, Workload::Waits] {
            let (one, two) = measure(variant, workload, &recorders);
            cells.extend([format!("{one:.0}"), format!("{two:.0}"), format!("{:.2}", two / one)]);
        }
        table.row(&cells);
    }
    report::write("threads", &table.to_string())
}

/// Returns the medians of interleaved rounds on one thread and on two.
fn measure(variant: Variant, workload: Workload, recorders: &Recorders) -> (f64, f64) {
    let benchmark = Benchmark::new(variant, workload, recorders);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        one.push(run_on_threads(1, &benchmark));
        two.push(run_on_threads(2, &benchmark));
        recorders.prometheus.run_upkeep();
    }
    (median(&one), median(&two))
}

/// Returns the mean over `count` concurrent threads, each pinned to its own core.
fn run_on_threads(count: usize, benchmark: &Benchmark) -> f64 {
    let barrier = Barrier::new(count);
    let times: Vec<f64> = thread::scope(|scope| {
        let run = |core| {
            let (mut benchmark, barrier) = (benchmark.clone(), &barrier);
            move || {
                pin_to_core(core);
                let waker = executor::waker();
                let mut cx = Context::from_waker(&waker);
                benchmark.warm_up(BATCH, &mut cx);
                barrier.wait();
                let batches: Vec<_> = (0..BATCHES).map(|_| benchmark.time_batch(&mut cx)).collect();
                median(&batches)
            }
        };
        let threads: Vec<_> = (0..count).map(|core| scope.spawn(run(core))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    times.iter().sum::<f64>() / count as f64
}

fn pin_to_core(core: usize) {
    let mut set = nix::sched::CpuSet::new();
    // Fails on a machine with one core, where the threads share it. The report names the cores.
    let this_thread = nix::unistd::Pid::from_raw(0);
    let _ = set.set(core).and_then(|()| nix::sched::sched_setaffinity(this_thread, &set));
}
