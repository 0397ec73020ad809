use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::meter::Meter;
use crate::outcome::Outcome;

pin_project! {
    /// A background task whose polls are measured. From [`StallMonitor::instrument`](crate::StallMonitor::instrument).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct StallTask<F> {
        #[pin]
        inner: F,
        meter: Option<Meter>,
    }
}

impl<F> StallTask<F> {
    pub(crate) fn new(inner: F, meter: Meter) -> Self {
        Self { inner, meter: Some(meter) }
    }
}

impl<F: Future> Future for StallTask<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Some(meter) = Meter::here(this.meter) else {
            return this.inner.poll(cx);
        };
        let mark = 0;
        let (polling, lent) = meter.poll(cx.waker(), &mark);
        let output = this.inner.poll(&mut Context::from_waker(&lent.waker()));
        polling.end();
        lent.end();
        if output.is_ready() {
            meter.count_as(Outcome::Success);
            *this.meter = None;
        }
        output
    }
}
