//! One variant at one kind of work, ready to be run again and again.

use std::task::Context;

use axum::Router;
use axum::extract::Request;
use tower_stall::StallMonitor;

use crate::load::{self, Work};
use crate::variants::{Recorders, Variant};

#[derive(Clone)]
pub struct Subject {
    variant: Variant,
    work: Work,
    router: Router,
    monitor: StallMonitor,
    task_monitor: tokio_metrics::TaskMonitor,
}

impl Subject {
    pub fn new(variant: Variant, work: Work, recorders: &Recorders) -> Self {
        // As `axum::serve` does: else axum would put the layer around the route again for each request.
        let router = variant.around(load::routes(), recorders).with_state(());
        let (monitor, task_monitor) = (recorders.monitor.clone(), recorders.task_monitor.clone());
        Self { variant, work, router, monitor, task_monitor }
    }

    /// What is not to be measured: making the request.
    pub fn prepare(&self) -> Request {
        self.work.request()
    }

    /// What is measured. Callgrind knows it by its name.
    #[inline(never)]
    pub fn run(&mut self, request: Request, cx: &mut Context<'_>) {
        self.work(request, cx);
    }

    /// Runs some, unmeasured.
    pub fn warm_up(&mut self, times: usize, cx: &mut Context<'_>) {
        (0..times).for_each(|_| {
            let request = self.prepare();
            self.work(request, cx);
        });
    }

    fn work(&mut self, request: Request, cx: &mut Context<'_>) {
        match (self.work, self.variant) {
            (Work::Task, Variant::TowerStall) => {
                load::drive_future(self.monitor.instrument("job", load::wait(load::WAITS)), cx);
            }
            (Work::Task, Variant::TokioMetrics) => {
                load::drive_future(self.task_monitor.instrument(load::wait(load::WAITS)), cx);
            }
            (Work::Task, Variant::FutureMonitor) => {
                let monitor = tokio_metrics::FutureMonitor::new();
                load::drive_future(monitor.instrument(load::wait(load::WAITS)), cx);
            }
            (Work::Task, _) => {
                load::drive_future(load::wait(load::WAITS), cx);
            }
            _ => load::drive(&mut self.router, request, cx),
        }
    }
}
