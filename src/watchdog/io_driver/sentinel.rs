//! The task inside the runtime that the driver, or the rescuer, wakes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::super::discovery::record_own_poll;
use super::probe_state::ProbeState;
use super::socket::{Receiver, Registered, Sender, socket_pair};
use crate::state::MonitorState;

/// The sentinel, before it runs.
#[derive(Debug)]
pub(crate) struct Sentinel {
    shared: Arc<SentinelState>,
    /// `None` on a runtime without an I/O driver.
    receiver: Option<Receiver>,
}

/// What the sentinel and the rescuer share.
#[derive(Debug, Default)]
pub(super) struct SentinelState {
    pub(super) probe: ProbeState,
    task: Mutex<Option<Waker>>,
}

/// The running sentinel.
struct SentinelFuture {
    monitor: Arc<MonitorState>,
    shared: Arc<SentinelState>,
    socket: Option<Registered>,
}

/// The waker that the driver calls.
struct ProbeWaker {
    shared: Arc<SentinelState>,
    task: Waker,
}

// === impl Sentinel ===

impl Sentinel {
    /// Uses the I/O driver of the current runtime once. Panics, as tokio does, if there is none.
    pub(crate) fn check() -> io::Result<()> {
        socket_pair()?.1.register().map(drop)
    }

    /// Creates a sentinel, and the sender of its probes if the runtime has an I/O driver.
    pub(super) fn new(has_io: bool) -> io::Result<(Self, Arc<SentinelState>, Option<Sender>)> {
        let (sender, receiver) = has_io.then(socket_pair).transpose()?.unzip();
        let shared = Arc::<SentinelState>::default();
        Ok((Self { shared: Arc::clone(&shared), receiver }, shared, sender))
    }

    /// Waits on the driver of the current runtime until it is aborted.
    pub(crate) async fn run(self, monitor: Arc<MonitorState>) {
        let Ok(socket) = self.receiver.map(Receiver::register).transpose() else { return };
        SentinelFuture { monitor, shared: self.shared, socket }.await;
    }
}

// === impl SentinelState ===

impl SentinelState {
    /// Wakes the sentinel, with nothing to do.
    pub(super) fn wake(&self) {
        let task = self.lock().clone();
        if let Some(task) = task {
            task.wake();
        }
    }

    fn set_task(&self, waker: &Waker) {
        let mut task = self.lock();
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl SentinelFuture ===

impl Future for SentinelFuture {
    /// Ready when the rescuer is gone.
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        record_own_poll(&self.monitor);
        let shared = &self.shared;
        shared.set_task(cx.waker());
        let Some(socket) = &self.socket else { return Poll::Pending };
        let waker = Waker::from(Arc::new(ProbeWaker {
            shared: Arc::clone(shared),
            task: cx.waker().clone(),
        }));
        let mut cx = Context::from_waker(&waker);
        loop {
            match socket.poll_drain(&mut cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Ready(Some(probes)) => shared.probe.on_received(probes as u64),
            }
        }
    }
}

// === impl ProbeWaker ===

impl Wake for ProbeWaker {
    fn wake(self: Arc<Self>) {
        self.shared.probe.on_wake();
        self.task.wake_by_ref();
    }
}
