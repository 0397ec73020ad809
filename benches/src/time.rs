//! Nanoseconds and allocations: all variants in one process, turn and turn about.

use std::task::Context;
use std::time::Instant;

use crate::allocations;
use crate::load::{self, Work};
use crate::stats::{Spread, median};
use crate::subject::Subject;
use crate::variants::{Recorders, Variant};

/// What one request of a variant costs.
pub struct Cost {
    pub nanos: Spread,
    /// Each round's time by that round's time of `Identity`, less.
    pub over_identity: Spread,
    pub allocations: f64,
    pub bytes: f64,
}

const ROUNDS: usize = 41;
const BATCH: usize = 400;

pub fn costs(work: Work, recorders: &Recorders) -> Vec<Cost> {
    let waker = load::waker();
    let mut cx = Context::from_waker(&waker);
    let mut subjects: Vec<_> = Variant::ALL.iter().map(|&variant| Subject::new(variant, work, recorders)).collect();
    subjects.iter_mut().for_each(|subject| subject.warm_up(BATCH, &mut cx));
    let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
    let mut allocated = vec![(0, 0); subjects.len()];
    for _ in 0..ROUNDS {
        for (subject, (rounds, allocated)) in subjects.iter_mut().zip(rounds.iter_mut().zip(&mut allocated)) {
            let requests: Vec<_> = (0..BATCH).map(|_| subject.prepare()).collect();
            let before = allocations::so_far();
            let start = Instant::now();
            for request in requests {
                subject.run(request, &mut cx);
            }
            rounds.push(start.elapsed().as_nanos() as f64 / BATCH as f64);
            let after = allocations::so_far();
            *allocated = (after.0 - before.0, after.1 - before.1);
        }
        // What the `metrics` recorder piles up is not to slow the next round down.
        recorders.prometheus.run_upkeep();
    }
    let identity = rounds[position(Variant::Identity)].clone();
    let cost = |at: usize| Cost {
        nanos: Spread::of(&rounds[at]),
        over_identity: Spread::of(&rounds[at].iter().zip(&identity).map(|(own, base)| own - base).collect::<Vec<_>>()),
        allocations: allocated[at].0 as f64 / BATCH as f64,
        bytes: allocated[at].1 as f64 / BATCH as f64,
    };
    (0..subjects.len()).map(cost).collect()
}

/// Nanoseconds of one request on each of one and two threads that share a router: medians of interleaved rounds.
pub fn one_and_two_threads(variant: Variant, work: Work, recorders: &Recorders) -> (f64, f64) {
    let subject = Subject::new(variant, work, recorders);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        one.push(on_threads(1, &subject));
        two.push(on_threads(2, &subject));
        recorders.prometheus.run_upkeep();
    }
    (median(&one), median(&two))
}

/// The mean time of a request on so many threads, each tied to a core of its own, while all are at it.
fn on_threads(threads: usize, subject: &Subject) -> f64 {
    const BATCHES: usize = 12;
    let barrier = std::sync::Barrier::new(threads);
    let times: Vec<f64> = std::thread::scope(|scope| {
        let run = |core| {
            let (mut subject, barrier) = (subject.clone(), &barrier);
            move || {
                tie_to(core);
                let waker = load::waker();
                let mut cx = Context::from_waker(&waker);
                subject.warm_up(BATCH, &mut cx);
                barrier.wait();
                let mut batches = Vec::new();
                for _ in 0..BATCHES {
                    let requests: Vec<_> = (0..BATCH).map(|_| subject.prepare()).collect();
                    let start = Instant::now();
                    requests.into_iter().for_each(|request| subject.run(request, &mut cx));
                    batches.push(start.elapsed().as_nanos() as f64 / BATCH as f64);
                }
                median(&batches)
            }
        };
        let running: Vec<_> = (0..threads).map(|core| scope.spawn(run(core))).collect();
        running.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    times.iter().sum::<f64>() / threads as f64
}

#[cfg(target_os = "linux")]
fn tie_to(core: usize) {
    let mut set = nix::sched::CpuSet::new();
    // On one core both threads share it, which the machine's description tells.
    let _ = set.set(core).and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set));
}

fn position(variant: Variant) -> usize {
    Variant::ALL.iter().position(|&other| other == variant).expect("one of them")
}
