//! Many pending requests, while ready ones are served.

use std::pin::Pin;
use std::task::Context;

use tower::Service;

use super::export;
use crate::allocations;
use crate::benchmark::Benchmark;
use crate::child;
use crate::executor;
use crate::recorders::Recorders;
use crate::stats::median;
use crate::variants::Variant;
use crate::workload::{self, Workload};

const ROUNDS: usize = 21;

pub fn child(count: usize) {
    let recorders = Recorders::install();
    let waker = executor::waker();
    let mut cx = Context::from_waker(&waker);
    let mut start_requests = |variant: Variant| {
        let mut router = variant.apply(workload::router(), &recorders).with_state(());
        let mut pending = Vec::with_capacity(count);
        let before = allocations::live_bytes();
        for _ in 0..count {
            let mut call: Pin<Box<_>> =
                Box::pin(Service::call(&mut router, Workload::Waits.request()));
            assert!(call.as_mut().poll(&mut cx).is_pending());
            pending.push(call);
        }
        (pending, (allocations::live_bytes() - before) as f64 / count as f64)
    };
    let (_pending_identity, identity_bytes) = start_requests(Variant::Identity);
    let (_pending_tower_stall, tower_stall_bytes) = start_requests(Variant::TowerStall);
    let [mut identity, mut tower_stall] = [Variant::Identity, Variant::TowerStall]
        .map(|variant| Benchmark::new(variant, Workload::Ready, &recorders));
    let over_identity = |_| -identity.time_batch(&mut cx) + tower_stall.time_batch(&mut cx);
    let over_identity: Vec<f64> = (0..ROUNDS).map(over_identity).collect();
    let mut row = vec![
        count.to_string(),
        format!("{:+.0}", median(&over_identity)),
        format!("{:+.0}", tower_stall_bytes - identity_bytes),
    ];
    row.extend(export::cells(&recorders, || _ = tower_stall.time_batch(&mut cx)));
    child::print_row(&row);
}
