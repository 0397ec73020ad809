//! Checks that every variant records what it is given.

use std::task::Context;

use crate::Result;
use crate::benchmark::Benchmark;
use crate::executor;
use crate::recorders::Recorders;
use crate::variants::Variant;
use crate::workload::Workload;

/// Fails unless each variant counts as many requests as were made.
pub fn all_variants_record(recorders: &Recorders) -> Result<()> {
    const REQUESTS: u64 = 100;
    let waker = executor::waker();
    let mut cx = Context::from_waker(&waker);
    for variant in Variant::ALL {
        let mut benchmark = Benchmark::new(variant, Workload::Ready, recorders);
        let before = variant.recorded_requests(recorders);
        benchmark.warm_up(REQUESTS as usize, &mut cx);
        let after = variant.recorded_requests(recorders);
        let recorded = after.zip(before).map(|(after, before)| after - before);
        if recorded.is_some_and(|recorded| recorded != REQUESTS) {
            let name = variant.name();
            return Err(format!("{name} recorded {recorded:?} of {REQUESTS} requests").into());
        }
    }
    Ok(())
}
