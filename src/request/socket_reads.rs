//! For how long the bytes that begin a request have waited in their socket.
//!
//! # What is measured
//!
//! After each read that returned bytes, the kernel is asked how long ago the last data arrived
//! (`tcpi_last_data_recv` of `TCP_INFO`), if something was late lately; see [`Lateness`]. The bytes
//! that were read arrived then or earlier, so the answer is not longer than their wait, but for the
//! rounding to ticks. That is why the question comes after the read: data that arrives between the
//! question and the read would otherwise count as having waited.
//!
//! # Whose wait it is
//!
//! A request may be split over several reads, and a read may have parts of several requests. What
//! is certain is that a server calls the service of a request after it has read the request's head,
//! and that it parses all that it has read before it reads again in vain. So the wait belongs to
//! the latest *batch*, which ends with a call, or with a read that has nothing to return. The
//! shortest wait of a batch is taken, which is again not longer than that of any bytes in it.
//!
//! | case | wait of the request |
//! |---|---|
//! | a head in one read, or in several reads of one poll | that read, or the shortest |
//! | the rest of a head arrives later | the wait of the rest |
//! | a body that is read after the call | none: the next request begins with another batch |
//! | requests in one read, pipelined or on streams of HTTP/2 | that read, each |
//! | the stream sends on while the server is late | that of the last data: too little |
//!
//! # How the call finds it
//!
//! Servers poll a connection in one task, and call the service there, between operations on the
//! connection's stream: `hyper` with HTTP/1.1 does, whatever is between it and the service, unless
//! that moves the request to another task. So each operation notes the connection and its task as
//! the last ones of the thread, and a call takes the wait if it is made in that task. Only the
//! connection's task writes to [`Reads`], on whichever thread it is polled.
//!
//! A wait is taken once per batch, or per write of the server after it: a pipelined request is
//! called after the response to the one before it was written, while a request that is retried is
//! not.
//!
//! With HTTP/2, `hyper-util` calls a tower service in the task of each stream. Of what happens in
//! the task of the connection, that service sees only its own clone, which is made between the
//! decoding of the frame and the spawn of the task: [`SocketWait::of_current_task`].

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use tokio::task;

use super::attribution;
use super::local_handle::LocalHandle;
use super::thread_local::local_handle;
use crate::os::Clock;
use crate::routes::RouteId;
use crate::shard::Lateness;
use crate::state::MonitorState;
use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// The connection of one stream, as its reads and writes show it.
#[derive(Debug)]
pub(crate) struct Connection {
    monitor: Arc<MonitorState>,
    reads: Arc<Reads>,
}

/// The latest batch of a connection. Relaxed: only the task that polls the connection uses it.
#[derive(Debug)]
struct Reads {
    /// The shortest wait of the batch, and when it ended, in ticks.
    wait: AtomicU64,
    read_at: AtomicU64,
    /// Whether the next read begins a batch.
    has_ended: AtomicBool,
    /// Whether a call may take the wait.
    is_available: AtomicBool,
}

/// The connection that a thread has read from or written to last.
#[derive(Debug)]
struct Driven {
    task: task::Id,
    lateness: Arc<Lateness>,
    reads: Arc<Reads>,
}

thread_local! {
    static DRIVEN: RefCell<Option<Driven>> = const { RefCell::new(None) };
}

/// How long the bytes of one request have waited, as an extension of the request.
#[derive(Clone, Debug)]
pub(crate) struct SocketWait {
    lateness: Arc<Lateness>,
    ticks: u64,
    /// When the bytes were read, in ticks.
    read_at: u64,
}

// === impl Connection ===

impl Connection {
    pub(crate) fn new(monitor: &Arc<MonitorState>) -> Self {
        Self { monitor: Arc::clone(monitor), reads: Arc::new(Reads::new()) }
    }

    /// Records a read that returned bytes. `since_last_data` asks the kernel how long ago the last
    /// data arrived.
    #[inline]
    pub(crate) fn on_read(&self, since_last_data: impl FnOnce() -> Option<Duration>) {
        let wait = self.monitor.lateness.wait(|| self.is_worker_behind(), since_last_data);
        self.reads.add(wait, &self.monitor.clock);
        self.drive();
    }

    /// Records a read that returned nothing.
    #[inline]
    pub(crate) fn on_empty_read(&self) {
        self.reads.has_ended.store(true, Ordering::Relaxed);
        self.drive();
    }

    /// Records that bytes were written.
    #[inline]
    pub(crate) fn on_write(&self) {
        self.reads.is_available.store(true, Ordering::Relaxed);
        self.drive();
    }

    /// Returns whether this thread has just run something long that the watchdog has not seen.
    fn is_worker_behind(&self) -> bool {
        let worker = local_handle(&self.monitor).shard().worker();
        worker.is_some_and(|worker| self.monitor.worker_load.is_long(worker))
    }

    /// Notes the connection as the last one of this thread.
    fn drive(&self) {
        let Some(task) = task::try_id() else { return };
        let _ = DRIVEN.try_with(|driven| match &mut *driven.borrow_mut() {
            Some(driven) if Arc::ptr_eq(&driven.reads, &self.reads) => driven.task = task,
            other => *other = Some(Driven::new(task, self)),
        });
    }
}

// === impl Reads ===

impl Reads {
    fn new() -> Self {
        Self {
            wait: AtomicU64::new(0),
            read_at: AtomicU64::new(0),
            has_ended: AtomicBool::new(true),
            is_available: AtomicBool::new(false),
        }
    }

    fn add(&self, wait: u64, clock: &Clock) {
        let begins_batch = self.has_ended.load(Ordering::Relaxed);
        let before = if begins_batch { u64::MAX } else { self.wait.load(Ordering::Relaxed) };
        self.wait.store(wait.min(before), Ordering::Relaxed);
        if wait > 0 {
            self.read_at.store(clock.now(), Ordering::Relaxed);
        }
        self.has_ended.store(false, Ordering::Relaxed);
        self.is_available.store(true, Ordering::Relaxed);
    }

    /// Returns the wait, and when it ended.
    fn wait(&self) -> (u64, u64) {
        (self.wait.load(Ordering::Relaxed), self.read_at.load(Ordering::Relaxed))
    }

    fn take(&self) -> Option<(u64, u64)> {
        let is_available = self.is_available.load(Ordering::Relaxed);
        self.is_available.store(false, Ordering::Relaxed);
        self.has_ended.store(true, Ordering::Relaxed);
        is_available.then(|| self.wait())
    }
}

// === impl Driven ===

impl Driven {
    #[cold]
    fn new(task: task::Id, connection: &Connection) -> Self {
        let Connection { monitor, reads } = connection;
        Self { task, lateness: Arc::clone(&monitor.lateness), reads: Arc::clone(reads) }
    }

    /// Calls `f` with the latest batch of the connection that the current task polls, if it is one
    /// of the monitor that `lateness` belongs to.
    fn with_reads<R>(lateness: &Arc<Lateness>, f: impl FnOnce(&Reads) -> R) -> Option<R> {
        let task = task::try_id()?;
        let found = DRIVEN.try_with(|driven| {
            let driven = driven.borrow();
            let driven = driven.as_ref()?;
            let is_found = driven.task == task && Arc::ptr_eq(&driven.lateness, lateness);
            is_found.then(|| f(&driven.reads))
        });
        found.ok().flatten()
    }
}

// === impl SocketWait ===

impl SocketWait {
    /// Returns the wait of the connection that the current task polls, if it is one of this
    /// monitor. Leaves it to others.
    pub(crate) fn of_current_task(monitor: &MonitorState) -> Option<Self> {
        let lateness = &monitor.lateness;
        let (ticks, read_at) = Driven::with_reads(lateness, Reads::wait)?;
        Some(Self { lateness: Arc::clone(lateness), ticks, read_at })
    }

    /// Records for how long the bytes of a request, which has just started, have waited: as its
    /// extension says, or the connection that the current task polls.
    pub(crate) fn record(
        known: Option<&Self>,
        local: &LocalHandle,
        monitor: &MonitorState,
        route: RouteId,
    ) {
        let known = known.and_then(|wait| wait.of(&monitor.lateness));
        let taken = Driven::with_reads(&monitor.lateness, Reads::take).flatten();
        let Some((ticks, read_at)) = known.or(taken) else { return };
        local.counters(route).add_socket_wait(&monitor.bounds, ticks);
        if ticks > 0 {
            let arrived = read_at.saturating_sub(ticks);
            attribution::record_socket_wait(monitor, local.shard(), route, arrived, read_at);
        }
    }

    /// Returns the wait, and when it ended, if it is one of a monitor.
    fn of(&self, lateness: &Arc<Lateness>) -> Option<(u64, u64)> {
        Arc::ptr_eq(&self.lateness, lateness).then_some((self.ticks, self.read_at))
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::state::tests::state;

    const MILLI: u64 = 1_000_000;

    /// Creates a monitor whose clock is set by hand, at a moment at which something is late.
    fn late_monitor() -> Arc<MonitorState> {
        let time = Arc::new(std::sync::atomic::AtomicU64::new(1_000 * MILLI));
        let monitor = state(Clock::Manual(time));
        monitor.lateness.mark(1_000 * MILLI);
        monitor
    }

    fn read(connection: &Connection, millis: u64) {
        connection.on_read(|| Some(Duration::from_millis(millis)));
    }

    fn take(monitor: &MonitorState) -> Option<u64> {
        let ticks = Driven::with_reads(&monitor.lateness, Reads::take).flatten();
        ticks.map(|(ticks, _)| ticks / MILLI)
    }

    /// Runs code in a task, on this thread.
    fn in_task(code: impl FnOnce() + Send + 'static) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { tokio::spawn(async { code() }).await.unwrap() });
    }

    #[test]
    fn only_the_task_that_has_read_takes_the_wait_and_only_of_its_monitor() {
        let (monitor, other) = (late_monitor(), late_monitor());
        let connection = Arc::new(Connection::new(&monitor));
        let parts = || (Arc::clone(&monitor), Arc::clone(&connection));
        in_task({
            let (monitor, connection) = parts();
            move || {
                read(&connection, 300);
                assert_eq!(take(&other), None);
                assert_eq!(SocketWait::of_current_task(&monitor).unwrap().ticks, 300 * MILLI);
                assert_eq!(take(&monitor), Some(300));
                connection.on_write();
            }
        });
        assert_eq!(take(&monitor), None, "called by no task");
        in_task({
            let (monitor, _) = parts();
            move || assert_eq!(take(&monitor), None, "called by another task")
        });
        in_task(move || {
            connection.on_empty_read();
            assert_eq!(take(&monitor), Some(300), "the task that polls it now");
        });
    }

    #[test]
    fn a_connection_is_found_again_after_another_one_was_read() {
        let monitor = late_monitor();
        in_task(move || {
            let [one, other] = [(); 2].map(|()| Connection::new(&monitor));
            read(&one, 300);
            read(&other, 200);
            one.on_empty_read();
            assert_eq!(take(&monitor), Some(300));
            other.on_empty_read();
            assert_eq!(take(&monitor), Some(200));
        });
    }

    #[test]
    fn a_batch_has_its_shortest_wait_and_ends_with_a_call_or_an_empty_read() {
        let monitor = late_monitor();
        in_task(move || {
            let connection = Connection::new(&monitor);
            for millis in [300, 200, 250] {
                read(&connection, millis);
            }
            assert_eq!(take(&monitor), Some(200));
            read(&connection, 400);
            assert_eq!(take(&monitor), Some(400));
            read(&connection, 100);
            connection.on_empty_read();
            read(&connection, 500);
            assert_eq!(take(&monitor), Some(500));
        });
    }

    #[test]
    fn a_wait_is_taken_once_unless_something_was_written_since() {
        let monitor = late_monitor();
        in_task(move || {
            let connection = Connection::new(&monitor);
            read(&connection, 300);
            assert_eq!((take(&monitor), take(&monitor)), (Some(300), None));
            connection.on_empty_read();
            assert_eq!(take(&monitor), None, "a request that is sent again");
            connection.on_write();
            assert_eq!(take(&monitor), Some(300), "a pipelined request");
        });
    }
}
