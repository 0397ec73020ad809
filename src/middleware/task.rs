use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::meter::{HANDLER, Mark, Meter};

pin_project! {
    /// A background task whose polls are measured. From [`StallMonitor::instrument`](crate::StallMonitor::instrument).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct StallTask<F> {
        #[pin]
        inner: F,
        meter: Meter,
    }
}

impl<F> StallTask<F> {
    pub(crate) fn new(inner: F, meter: Meter) -> Self {
        Self { inner, meter }
    }
}

impl<F: Future> Future for StallTask<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Some(record) = this.meter.here() else {
            return this.inner.poll(cx);
        };
        let mark = Mark::new();
        let (polling, waker) = record.poll::<HANDLER>(cx.waker(), &mark);
        let output = this.inner.poll(&mut Context::from_waker(waker));
        polling.end();
        if output.is_ready() {
            record.completed();
            this.meter.end();
        }
        output
    }
}
