//! A variant with a workload, ready to run repeatedly.

use std::task::Context;
use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use tower_stall::StallMonitor;

use crate::executor;
use crate::recorders::Recorders;
use crate::variants::Variant;
use crate::workload::{self, WAITS, Workload};

/// Requests per measured batch.
pub const BATCH: usize = 400;

#[derive(Clone)]
pub struct Benchmark {
    variant: Variant,
    workload: Workload,
    router: Router,
    monitor: StallMonitor,
    task_monitor: tokio_metrics::TaskMonitor,
}

impl Benchmark {
    pub fn new(variant: Variant, workload: Workload, recorders: &Recorders) -> Self {
        // `axum::serve` calls `with_state`, too. Without it axum applies the layer to the route
        // again for each request.
        let router = variant.apply(workload::router(), recorders).with_state(());
        let (monitor, task_monitor) = (recorders.monitor.clone(), recorders.task_monitor.clone());
        Self { variant, workload, router, monitor, task_monitor }
    }

    /// Creates a request. Not measured.
    pub fn prepare(&self) -> Request {
        self.workload.request()
    }

    /// Runs the measured part. `callgrind` selects this function by name.
    #[inline(never)]
    pub fn run(&mut self, request: Request, cx: &mut Context<'_>) {
        self.execute(request, cx);
    }

    /// Runs a number of requests, unmeasured.
    pub fn warm_up(&mut self, requests: usize, cx: &mut Context<'_>) {
        (0..requests).for_each(|_| {
            let request = self.prepare();
            self.execute(request, cx);
        });
    }

    /// Runs a batch and returns the nanoseconds per request.
    pub fn time_batch(&mut self, cx: &mut Context<'_>) -> f64 {
        let requests: Vec<_> = (0..BATCH).map(|_| self.prepare()).collect();
        let start = Instant::now();
        requests.into_iter().for_each(|request| self.run(request, cx));
        start.elapsed().as_nanos() as f64 / BATCH as f64
    }

    fn execute(&mut self, request: Request, cx: &mut Context<'_>) {
        match (self.workload, self.variant) {
            (Workload::Task, Variant::TowerStall) => {
                executor::block_on(self.monitor.instrument("job", executor::wait(WAITS)), cx);
            }
            (Workload::Task, Variant::TaskMonitor) => {
                executor::block_on(self.task_monitor.instrument(executor::wait(WAITS)), cx);
            }
            (Workload::Task, Variant::FutureMonitor) => {
                let monitor = tokio_metrics::FutureMonitor::new();
                executor::block_on(monitor.instrument(executor::wait(WAITS)), cx);
            }
            (Workload::Task, _) => {
                executor::block_on(executor::wait(WAITS), cx);
            }
            _ => executor::serve(&mut self.router, request, cx),
        }
    }
}
