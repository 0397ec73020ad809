use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::request::{HANDLER, PollGuard, RequestGuard, StackMark};

pin_project! {
    /// A future whose polls are measured as those of a background task.
    ///
    /// Returned by [`StallMonitor::instrument`](crate::StallMonitor::instrument). Dropping it
    /// before it is ready ends the task as `cancelled`. Adds one pointer to the size of the
    /// underlying future.
    ///
    /// ```
    /// use std::future::{Ready, ready};
    ///
    /// use tower_stall::{Instrumented, StallMonitor};
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let monitor = StallMonitor::builder().spawn()?;
    /// let task: Instrumented<Ready<u32>> = monitor.instrument("import", ready(42));
    /// assert_eq!(tokio::spawn(task).await?, 42);
    /// # Ok(()) }
    /// ```
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Instrumented<F> {
        #[pin]
        inner: F,
        guard: RequestGuard,
    }
}

impl<F> Instrumented<F> {
    pub(crate) fn new(inner: F, guard: RequestGuard) -> Self {
        Self { inner, guard }
    }

    /// Gets a reference to the underlying future.
    pub fn get_ref(&self) -> &F {
        &self.inner
    }

    /// Gets a mutable reference to the underlying future. Polls through it are not measured.
    pub fn get_mut(&mut self) -> &mut F {
        &mut self.inner
    }

    /// Consumes `self`, returning the underlying future. The task ends here, as `cancelled` unless
    /// it was complete.
    pub fn into_inner(self) -> F {
        self.inner
    }
}

impl<F: Future> Future for Instrumented<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Some(record) = this.guard.bind_to_current_thread() else {
            return this.inner.poll(cx);
        };
        let mark = StackMark::new();
        let (poll, waker) = PollGuard::<HANDLER>::begin_poll(record, cx.waker(), &mark);
        let output = this.inner.poll(&mut Context::from_waker(waker));
        poll.end();
        if output.is_ready() {
            record.on_end();
            this.guard.end();
        }
        output
    }
}
