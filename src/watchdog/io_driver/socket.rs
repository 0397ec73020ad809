//! The socket pair of the probes.

use std::io::{self, ErrorKind, Write};
#[cfg(not(unix))]
use std::net::TcpStream as StdStream;
#[cfg(unix)]
use std::os::unix::net::UnixStream as StdStream;
use std::task::{Context, Poll, ready};

#[cfg(not(unix))]
use tokio::net::TcpStream as Stream;
#[cfg(unix)]
use tokio::net::UnixStream as Stream;

/// The end that probes are written to.
#[derive(Debug)]
pub(super) struct Sender(StdStream);

/// The end that the driver polls, before it is registered.
#[derive(Debug)]
pub(super) struct Receiver(StdStream);

#[derive(Debug)]
pub(super) struct Registered(Stream);

pub(super) fn socket_pair() -> io::Result<(Sender, Receiver)> {
    let (sender, receiver) = connected()?;
    sender.set_nonblocking(true)?;
    receiver.set_nonblocking(true)?;
    Ok((Sender(sender), Receiver(receiver)))
}

#[cfg(unix)]
fn connected() -> io::Result<(StdStream, StdStream)> {
    StdStream::pair()
}

/// Connects two sockets by the loopback interface.
#[cfg(not(unix))]
fn connected() -> io::Result<(StdStream, StdStream)> {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let sender = StdStream::connect(listener.local_addr()?)?;
    sender.set_nodelay(true)?;
    // Another process may connect first.
    loop {
        let (receiver, peer) = listener.accept()?;
        if peer == sender.local_addr()? {
            return Ok((sender, receiver));
        }
    }
}

impl Sender {
    pub(super) fn send(&self) -> io::Result<()> {
        (&self.0).write_all(&[0])
    }
}

impl Receiver {
    /// Registers the socket with the I/O driver of the current runtime. Panics, as tokio does, if
    /// there is none.
    pub(super) fn register(self) -> io::Result<Registered> {
        Stream::from_std(self.0).map(Registered)
    }
}

impl Registered {
    /// Waits for probes, reads them and returns how many there were; `None` at the end of the
    /// stream.
    pub(super) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        if ready!(self.0.poll_read_ready(cx)).is_err() {
            return Poll::Ready(None);
        }
        match self.0.try_read(&mut [0; 64]) {
            Ok(0) => Poll::Ready(None),
            Ok(bytes) => Poll::Ready(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Ready(Some(0)),
            Err(_) => Poll::Ready(None),
        }
    }
}
