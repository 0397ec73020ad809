//! The socket pair of the probes.

#[cfg(unix)]
pub(super) use self::unix::{Receiver, Registered, Sender, socket_pair};

#[cfg(not(unix))]
pub(super) use self::unsupported::{Receiver, Registered, Sender, socket_pair};

#[cfg(unix)]
mod unix {
    use std::io::{self, ErrorKind, Write};
    use std::os::unix::net::UnixStream as StdStream;
    use std::task::{Context, Poll, ready};

    use tokio::net::UnixStream;

    /// The end that probes are written to.
    #[derive(Debug)]
    pub(in super::super) struct Sender(StdStream);

    /// The end that the driver polls, before it is registered.
    #[derive(Debug)]
    pub(in super::super) struct Receiver(StdStream);

    #[derive(Debug)]
    pub(in super::super) struct Registered(UnixStream);

    pub(in super::super) fn socket_pair() -> io::Result<(Sender, Receiver)> {
        let (sender, receiver) = StdStream::pair()?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        Ok((Sender(sender), Receiver(receiver)))
    }

    impl Sender {
        pub(in super::super) fn send(&self) -> io::Result<()> {
            (&self.0).write_all(&[0])
        }
    }

    impl Receiver {
        /// Registers the socket with the I/O driver of the current runtime. Panics, as tokio does,
        /// if there is none.
        pub(in super::super) fn register(self) -> io::Result<Registered> {
            UnixStream::from_std(self.0).map(Registered)
        }
    }

    impl Registered {
        /// Waits for probes, reads them and returns how many there were; `None` at the end of the
        /// stream.
        pub(in super::super) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
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
}

/// Without a socket pair starvation is not detected; the rescue alone is left.
#[cfg(not(unix))]
mod unsupported {
    use std::io;
    use std::task::{Context, Poll};

    #[derive(Debug)]
    pub(in super::super) struct Sender;
    #[derive(Debug)]
    pub(in super::super) struct Receiver;
    #[derive(Debug)]
    pub(in super::super) struct Registered;

    pub(in super::super) fn socket_pair() -> io::Result<(Sender, Receiver)> {
        Ok((Sender, Receiver))
    }

    impl Sender {
        pub(in super::super) fn send(&self) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    impl Receiver {
        pub(in super::super) fn register(self) -> io::Result<Registered> {
            Ok(Registered)
        }
    }

    impl Registered {
        pub(in super::super) fn poll_drain(&self, _: &mut Context<'_>) -> Poll<Option<usize>> {
            Poll::Pending
        }
    }
}
