//! A bounded number of connections, none of which takes for ever to read its response.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;

/// Each connection takes a file descriptor, of which the service may have only a thousand.
const MAX_CONNECTIONS: usize = 128;
/// A client that has not read its response after this time is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The open connections of a server.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<Vec<Connection>>>);

struct Connection {
    activity: Arc<Activity>,
    task: AbortHandle,
}

/// What a connection does, and since when.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

/// In the order in which connections are closed if there are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// It waits for a request.
    Idle(Instant),
    /// It writes a response.
    Writing(Instant),
    /// It has received a request, whose response is not rendered yet.
    Waiting(Instant),
}

/// A stream that records its activity.
pub(super) struct TrackedStream<S> {
    inner: S,
    activity: Arc<Activity>,
}

// === impl Connections ===

impl Connections {
    pub(super) fn add(&self, activity: Arc<Activity>, task: AbortHandle) {
        self.lock().push(Connection { activity, task });
    }

    /// Closes a connection if there are as many as are allowed: the one that has been idle for the
    /// longest time, or else the one that has been writing for the longest time. Returns whether
    /// there is room for another one.
    pub(super) fn make_room(&self) -> bool {
        let mut connections = self.lock();
        connections.retain(|connection| !connection.task.is_finished());
        connections.len() < MAX_CONNECTIONS
            || close_first(&mut connections, |state| !matches!(state, State::Waiting(_)))
    }

    /// Closes the connections whose clients do not read their responses in time.
    pub(super) fn close_expired(&self, now: Instant) {
        self.lock().retain(|Connection { activity, task }| {
            let is_expired = matches!(activity.state(), State::Writing(since)
                if now.saturating_duration_since(since) >= WRITE_TIMEOUT);
            if is_expired {
                task.abort();
            }
            !is_expired && !task.is_finished()
        });
    }

    /// Closes the connection that has been writing for the longest time. Returns whether there was
    /// one.
    pub(super) fn close_slowest(&self) -> bool {
        close_first(&mut self.lock(), |state| matches!(state, State::Writing(_)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the connection whose state is the first one in the order of states.
fn close_first(connections: &mut Vec<Connection>, is_candidate: impl Fn(State) -> bool) -> bool {
    let states = connections.iter().map(|connection| connection.activity.state()).enumerate();
    let first = states.filter(|(_, state)| is_candidate(*state)).min_by_key(|(_, state)| *state);
    let Some((index, _)) = first else { return false };
    connections.swap_remove(index).task.abort();
    true
}

// === impl Activity ===

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State::Idle(Instant::now()))))
    }

    fn state(&self) -> State {
        *self.lock()
    }

    /// Records that a request has been received.
    pub(super) fn begin_wait(&self) {
        *self.lock() = State::Waiting(Instant::now());
    }

    fn begin_write(&self) {
        let mut state = self.lock();
        if !matches!(*state, State::Writing(_)) {
            *state = State::Writing(Instant::now());
        }
    }

    fn end_write(&self) {
        let mut state = self.lock();
        if matches!(*state, State::Writing(_)) {
            *state = State::Idle(Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl TrackedStream ===

impl<S> TrackedStream<S> {
    pub(super) fn new(inner: S, activity: Arc<Activity>) -> Self {
        Self { inner, activity }
    }

    pub(super) fn get_ref(&self) -> &S {
        &self.inner
    }

    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TrackedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TrackedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.activity.begin_write();
        Pin::new(&mut self.inner).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.begin_write();
        Pin::new(&mut self.inner).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// HTTP/1 flushes the stream when all of a response has been written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.activity.end_write();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    fn connection(state: State) -> Connection {
        let task = tokio::spawn(std::future::pending::<()>()).abort_handle();
        Connection { activity: Arc::new(Activity(Mutex::new(state))), task }
    }

    fn full(states: impl Iterator<Item = State>) -> Connections {
        Connections(Arc::new(Mutex::new(states.map(connection).collect())))
    }

    fn states(connections: &Connections) -> Vec<State> {
        connections.lock().iter().map(|connection| connection.activity.state()).collect()
    }

    #[tokio::test]
    async fn the_oldest_idle_connection_is_closed_first_then_the_slowest_reader() {
        let start = Instant::now();
        let at = |second: usize| start + Duration::from_secs(second as u64);
        let waiting = (3..MAX_CONNECTIONS).map(|index| State::Waiting(at(index)));
        let first = [State::Writing(at(0)), State::Idle(at(2)), State::Idle(at(1))];
        let connections = full(first.into_iter().chain(waiting));
        for closed in [State::Idle(at(1)), State::Idle(at(2)), State::Writing(at(0))] {
            assert!(states(&connections).contains(&closed));
            assert!(connections.make_room());
            assert!(!states(&connections).contains(&closed));
            let added = connection(State::Waiting(at(1_000)));
            connections.add(added.activity, added.task);
        }
        assert!(!connections.make_room(), "all wait for a page");
        assert_eq!(states(&connections).len(), MAX_CONNECTIONS);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_its_response_is_disconnected() {
        let start = Instant::now();
        let (waiting, writing) = (State::Waiting(start), State::Writing(start));
        let connections = full([State::Idle(start), writing, waiting].into_iter());
        connections.close_expired(start + WRITE_TIMEOUT - Duration::from_millis(1));
        assert_eq!(states(&connections).len(), 3);
        connections.close_expired(start + WRITE_TIMEOUT);
        assert_eq!(states(&connections), [State::Idle(start), waiting]);
    }

    #[tokio::test]
    async fn a_stream_writes_until_it_is_flushed() {
        use tokio::io::AsyncWriteExt as _;

        let activity = Activity::new();
        let (stream, _peer) = tokio::io::duplex(64);
        let mut stream = TrackedStream::new(stream, Arc::clone(&activity));
        activity.begin_wait();
        stream.flush().await.unwrap();
        assert!(matches!(activity.state(), State::Waiting(_)), "nothing was written");
        stream.write_all(b"response").await.unwrap();
        assert!(matches!(activity.state(), State::Writing(_)));
        stream.flush().await.unwrap();
        assert!(matches!(activity.state(), State::Idle(_)));
    }
}
