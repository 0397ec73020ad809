//! Many routes, each request on a different one.

use std::task::Context;
use std::thread;
use std::time::Instant;

use axum::Router;

use super::export;
use crate::allocations;
use crate::benchmark::BATCH;
use crate::child;
use crate::executor;
use crate::recorders::Recorders;
use crate::stats::median;
use crate::variants::Variant;
use crate::workload;

const COMPARED: [Variant; 3] =
    [Variant::TowerStall, Variant::CachedHandles, Variant::AxumPrometheus];
const ROUNDS: usize = 21;
/// The default of `max_routes`.
const MAX_ROUTES: usize = 512;

pub fn child(count: usize) {
    let recorders = Recorders::install();
    let waker = executor::waker();
    let mut cx = Context::from_waker(&waker);
    // The stride is coprime to every count, so that each route is visited once per round and
    // neighbors do not follow each other.
    let paths: Vec<_> =
        (0..count).map(|index| format!("/route/{}/42", index * 7919 % count)).collect();
    let build = |variant: Variant| {
        variant.apply(workload::router_with_routes(count), &recorders).with_state(())
    };
    let mut identity = build(Variant::Identity);
    let mut compared = COMPARED.map(build);
    let bytes_per_thread = first_round_bytes(&recorders, count, paths.clone());
    let mut over_identity = COMPARED.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        let base = time_round(&mut identity, &paths, &mut cx);
        for (router, over) in compared.iter_mut().zip(&mut over_identity) {
            over.push(time_round(router, &paths, &mut cx) - base);
        }
        recorders.prometheus.run_upkeep();
    }
    let export = export::cells(&recorders, || _ = time_round(&mut compared[0], &paths, &mut cx));
    let is_over_cap = count > MAX_ROUTES;
    let mut row =
        vec![if is_over_cap { format!("{count} (over the cap)") } else { count.to_string() }];
    row.extend(over_identity.iter().map(|over| format!("{:+.0}", median(over))));
    row.push(format!("{:.0}", bytes_per_thread / 1024.0));
    row.extend(export);
    child::print_row(&row);
}

/// Returns the bytes that tower-stall keeps for a thread that uses the routes for the first time.
fn first_round_bytes(recorders: &Recorders, count: usize, paths: Vec<String>) -> f64 {
    let layer = recorders.monitor.layer();
    let mut router = workload::router_with_routes(count).layer(layer).with_state(());
    let bytes = thread::spawn(move || {
        let waker = executor::waker();
        let mut cx = Context::from_waker(&waker);
        let before = allocations::live_bytes();
        time_round(&mut router, &paths, &mut cx);
        (allocations::live_bytes() - before) as f64
    });
    bytes.join().expect("no panic")
}

/// Requests every path at least once, and returns the nanoseconds per request.
fn time_round(router: &mut Router, paths: &[String], cx: &mut Context<'_>) -> f64 {
    let times = (BATCH / paths.len()).max(1);
    let requests: Vec<_> =
        (0..times).flat_map(|_| paths.iter().map(|path| workload::request(path))).collect();
    let count = requests.len();
    let start = Instant::now();
    requests.into_iter().for_each(|request| executor::serve(router, request, cx));
    start.elapsed().as_nanos() as f64 / count as f64
}
