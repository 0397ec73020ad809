use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

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
        let Some(meter) = this.meter else {
            return this.inner.poll(cx);
        };
        let output = ready!(meter.poll(cx, |cx| this.inner.poll(cx)));
        meter.count_as(Outcome::Success);
        *this.meter = None;
        Poll::Ready(output)
    }
}
