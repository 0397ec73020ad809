use std::io;
use std::sync::Arc;

use axum::serve::Listener;

use super::StallIo;
use super::descriptor::Descriptor;
use crate::threads::MonitorGuard;

/// A listener whose connections show how long requests have waited in the socket.
///
/// Returned by [`StallMonitor::listener`](crate::StallMonitor::listener), which has an example.
#[derive(Debug)]
pub struct StallListener<L> {
    inner: L,
    guard: Arc<MonitorGuard>,
}

impl<L> StallListener<L> {
    pub(crate) fn new(inner: L, guard: Arc<MonitorGuard>) -> Self {
        Self { inner, guard }
    }

    /// Gets a reference to the underlying listener.
    pub fn get_ref(&self) -> &L {
        &self.inner
    }

    /// Gets a mutable reference to the underlying listener. Connections that are accepted through
    /// it are not measured.
    pub fn get_mut(&mut self) -> &mut L {
        &mut self.inner
    }

    /// Consumes `self`, returning the underlying listener.
    pub fn into_inner(self) -> L {
        self.inner
    }
}

impl<L> Listener for StallListener<L>
where
    L: Listener<Io: Descriptor>,
{
    type Io = StallIo<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (io, addr) = self.inner.accept().await;
        (StallIo::new(io, self.guard.monitor()), addr)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}
