//! The I/O driver: whether somebody looks after it while a poll lasts, and the nudge that makes somebody do so.
//!
//! A runtime has one driver for its timers and sockets, and the worker that last waited on it may be the one that is inside a
//! long poll; tokio wakes no other to take its place. Two small means, both by one task inside the runtime, the *sentinel*:
//!
//! - evidence: a byte is written to a socket that the sentinel waits on. If a worker waits on the driver, the sentinel's waker
//!   is called within microseconds. If none does, nothing at all happens: the byte wakes nobody.
//! - the nudge: the sentinel is woken from outside, with nothing to do. An idle worker runs it, and when it then goes
//!   back to sleep it takes the driver, which nobody holds.
//!
//! Waking needs tokio's locks, so it is done from a thread of its own, not the watchdog's.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use crate::cells::Lane;
use crate::shared::Shared;
use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// A poll this old may have left the I/O driver to nobody.
pub(super) const SUSPECT: Duration = Duration::from_millis(5);
/// How long an answer may take before the driver counts as starved. A worker that waits on it answers in microseconds.
const PATIENCE: Duration = Duration::from_millis(2);

/// The rescuer's thread as the watchdog sees it.
#[derive(Clone, Debug)]
pub(crate) struct Rescuer(Arc<Bell>);

#[derive(Debug, Default)]
struct Bell {
    rung: AtomicBool,
    closed: AtomicBool,
    thread: OnceLock<Thread>,
}

/// The task inside the runtime.
#[derive(Debug)]
pub(crate) struct Sentinel {
    ends: Arc<Ends>,
    socket: Socket,
}

/// What the sentinel and the rescuer share.
#[derive(Debug, Default)]
struct Ends {
    /// Bytes sent, by the rescuer.
    sent: AtomicU64,
    /// `sent` when the driver last called the sentinel's waker.
    answered: AtomicU64,
    /// Bytes the sentinel has read.
    emptied: AtomicU64,
    task: Mutex<Option<Waker>>,
}

/// The waker that the driver calls.
struct Answer {
    ends: Arc<Ends>,
    task: Waker,
}

/// What the rescuer works with.
struct Rescue {
    shared: Arc<Shared>,
    bell: Arc<Bell>,
    ends: Arc<Ends>,
    bytes: Sender,
    nudge: bool,
    /// A nudge was given while the driver stood still, and no answer was seen yet.
    unthanked: bool,
    /// The sentinel is gone, with its runtime, or cannot be asked here: there is no evidence any more.
    deaf: bool,
}

// === impl Rescuer ===

impl Rescuer {
    /// A thread that looks after the driver of the runtime that `Sentinel::run` is spawned on. With `nudge`, it also cures.
    pub(crate) fn spawn(shared: Arc<Shared>, nudge: bool) -> io::Result<(Self, Sentinel)> {
        let (bytes, socket) = socket_pair()?;
        let (bell, ends) = (Arc::new(Bell::default()), Arc::new(Ends::default()));
        let rescue = Rescue {
            shared,
            bell: Arc::clone(&bell),
            ends: Arc::clone(&ends),
            bytes,
            nudge,
            unthanked: false,
            deaf: false,
        };
        let thread = std::thread::Builder::new().name("tower-stall-rescue".into()).spawn(move || rescue.run())?;
        let _ = bell.thread.set(thread.thread().clone());
        Ok((Self(bell), Sentinel { ends, socket }))
    }

    /// Says that a poll has lasted for a while.
    pub(crate) fn wake(&self) {
        self.0.rung.store(true, Ordering::Release);
        self.unpark();
    }

    pub(crate) fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        self.unpark();
    }

    fn unpark(&self) {
        if let Some(thread) = self.0.thread.get() {
            thread.unpark();
        }
    }
}

// === impl Rescue ===

impl Rescue {
    fn run(mut self) {
        while !self.bell.closed.load(Ordering::Acquire) {
            if self.bell.rung.swap(false, Ordering::Acquire) {
                self.round();
            } else {
                std::thread::park();
            }
        }
    }

    /// Looks at the driver once, and nudges.
    fn round(&mut self) {
        if self.unthanked && self.ends.is_answered() {
            self.credit();
        }
        let starved = self.is_starved();
        if starved {
            self.each_suspect(|lane, start| lane.watched.starved.store(start, Ordering::Relaxed));
        }
        if !self.nudge {
            return;
        }
        self.ends.nudge();
        self.unthanked |= starved;
        if starved && self.is_answered_soon() {
            self.credit();
        }
    }

    /// The driver has answered after a nudge: the stalls during which it had not before were rescued from.
    fn credit(&mut self) {
        self.unthanked = false;
        self.each_suspect(|lane, start| {
            if lane.watched.is_starved(start) {
                lane.watched.rescued.store(start, Ordering::Relaxed);
            }
        });
    }

    /// Whether nobody waits on the driver. A byte that was seen but not yet read proves nothing either way.
    fn is_starved(&mut self) -> bool {
        let sent = self.ends.sent.load(Ordering::Relaxed);
        if self.ends.emptied.load(Ordering::Acquire) == sent {
            self.ends.sent.store(sent + 1, Ordering::Release);
            self.deaf |= self.bytes.send().is_err();
        }
        !self.deaf && !self.is_answered_soon()
    }

    fn is_answered_soon(&self) -> bool {
        let asked = std::time::Instant::now();
        loop {
            if self.ends.is_answered() {
                return true;
            }
            if asked.elapsed() >= PATIENCE {
                return false;
            }
            std::thread::sleep(PATIENCE / 10);
        }
    }

    fn each_suspect(&self, f: impl Fn(&Lane, u64)) {
        let suspect = self.shared.clock.ticks(SUSPECT);
        let suspects = self.shared.polling().filter(|(_, _, age)| *age >= suspect);
        suspects.for_each(|(lane, poll, _)| f(lane, poll.start));
    }
}

// === impl Ends ===

impl Ends {
    /// Notes bytes read. One that was read before the driver told of it will never be told of, so it counts as answered.
    fn emptied(&self, bytes: u64) {
        let emptied = self.emptied.load(Ordering::Relaxed) + bytes;
        self.answered.fetch_max(emptied, Ordering::AcqRel);
        self.emptied.store(emptied, Ordering::Release);
    }

    /// Whether the driver has told of the last byte. The rescuer's to ask.
    fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire) == self.sent.load(Ordering::Relaxed)
    }

    /// Wakes the sentinel for nothing.
    fn nudge(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

// === impl Answer ===

impl Wake for Answer {
    fn wake(self: Arc<Self>) {
        self.ends.answered.fetch_max(self.ends.sent.load(Ordering::Acquire), Ordering::AcqRel);
        self.task.wake_by_ref();
    }
}

// === impl Sentinel ===

impl Sentinel {
    /// Uses the I/O driver of the current runtime once; panics, as tokio does, where it has none.
    pub(crate) fn check() -> io::Result<()> {
        socket_pair()?.1.register().map(drop)
    }

    /// Waits on the driver of the current runtime until it is aborted.
    pub(crate) async fn run(self) {
        let Ok(socket) = self.socket.register() else { return };
        Waiting { ends: self.ends, socket }.await;
    }
}

#[cfg(unix)]
pub(crate) use unix::{Registered, Sender, Socket, socket_pair};

#[cfg(not(unix))]
pub(crate) use elsewhere::{Registered, Sender, Socket, socket_pair};

/// The sentinel at work.
struct Waiting {
    ends: Arc<Ends>,
    socket: Registered,
}

impl Future for Waiting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let ends = &self.ends;
        {
            let mut task = ends.task.lock().unwrap_or_else(PoisonError::into_inner);
            if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
                *task = Some(cx.waker().clone());
            }
        }
        let answer = Waker::from(Arc::new(Answer { ends: Arc::clone(ends), task: cx.waker().clone() }));
        let mut cx = Context::from_waker(&answer);
        loop {
            match self.socket.poll_empty(&mut cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Ready(Some(bytes)) => ends.emptied(bytes as u64),
            }
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::io::{self, ErrorKind, Write};
    use std::os::unix::net::UnixStream as StdStream;
    use std::task::{Context, Poll, ready};

    use tokio::net::UnixStream;

    /// The end that bytes are written to.
    #[derive(Debug)]
    pub(crate) struct Sender(StdStream);

    /// The end that the driver is to look at.
    #[derive(Debug)]
    pub(crate) struct Socket(StdStream);

    #[derive(Debug)]
    pub(crate) struct Registered(UnixStream);

    pub(crate) fn socket_pair() -> io::Result<(Sender, Socket)> {
        let (sender, socket) = StdStream::pair()?;
        sender.set_nonblocking(true)?;
        socket.set_nonblocking(true)?;
        Ok((Sender(sender), Socket(socket)))
    }

    impl Sender {
        pub(crate) fn send(&self) -> io::Result<()> {
            (&self.0).write_all(&[0])
        }
    }

    impl Socket {
        pub(crate) fn register(self) -> io::Result<Registered> {
            UnixStream::from_std(self.0).map(Registered)
        }
    }

    impl Registered {
        /// Waits for bytes, takes them and tells how many they were; `None` when there will be no more.
        pub(crate) fn poll_empty(&self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
            if ready!(self.0.poll_read_ready(cx)).is_err() {
                return Poll::Ready(None);
            }
            match self.0.try_read(&mut [0; 64]) {
                Ok(0) => Poll::Ready(None),
                Ok(bytes) => Poll::Ready(Some(bytes)),
                Err(error) => Poll::Ready((error.kind() == ErrorKind::WouldBlock).then_some(0)),
            }
        }
    }
}

#[cfg(not(unix))]
mod elsewhere {
    //! Without a socket pair there is no evidence: the nudge alone is left.

    use std::io;
    use std::task::{Context, Poll};

    #[derive(Debug)]
    pub(crate) struct Sender;
    #[derive(Debug)]
    pub(crate) struct Socket;
    #[derive(Debug)]
    pub(crate) struct Registered;

    pub(crate) fn socket_pair() -> io::Result<(Sender, Socket)> {
        Ok((Sender, Socket))
    }

    impl Sender {
        pub(crate) fn send(&self) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    impl Socket {
        pub(crate) fn register(self) -> io::Result<Registered> {
            Ok(Registered)
        }
    }

    impl Registered {
        pub(crate) fn poll_empty(&self, _: &mut Context<'_>) -> Poll<Option<usize>> {
            Poll::Pending
        }
    }
}
