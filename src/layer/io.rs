use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::descriptor::Descriptor;
use crate::request::Connection;
use crate::state::MonitorState;

pin_project! {
    /// A stream of a connection, whose reads show how long requests have waited in the socket.
    ///
    /// Returned by [`StallMonitor::io`](crate::StallMonitor::io), and by what
    /// [`StallMonitor::listener`](crate::StallMonitor::listener) accepts. Passes everything
    /// through.
    ///
    /// ```no_run
    /// use tokio::net::TcpStream;
    /// use tower_stall::StallIo;
    ///
    /// # fn example(monitor: &tower_stall::StallMonitor, stream: TcpStream) -> std::io::Result<()> {
    /// let stream: StallIo<TcpStream> = monitor.io(stream);
    /// stream.get_ref().set_nodelay(true)
    /// # }
    /// ```
    #[derive(Debug)]
    pub struct StallIo<IO> {
        #[pin]
        inner: IO,
        // `None` if the kernel does not tell when data arrived.
        connection: Option<Connection>,
    }
}

impl<IO> StallIo<IO> {
    pub(crate) fn new(inner: IO, monitor: &Arc<MonitorState>) -> Self
    where
        IO: Descriptor,
    {
        let connection = inner.since_last_data().map(|_| Connection::new(monitor));
        Self { inner, connection }
    }

    /// Gets a reference to the underlying stream.
    pub fn get_ref(&self) -> &IO {
        &self.inner
    }

    /// Gets a mutable reference to the underlying stream. Reads through it are not measured.
    pub fn get_mut(&mut self) -> &mut IO {
        &mut self.inner
    }

    /// Consumes `self`, returning the underlying stream.
    pub fn into_inner(self) -> IO {
        self.inner
    }
}

impl<IO: AsyncRead + Descriptor> AsyncRead for StallIo<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut this = self.project();
        let filled = buf.filled().len();
        let polled = this.inner.as_mut().poll_read(cx, buf);
        match this.connection {
            Some(connection) if buf.filled().len() > filled => {
                connection.on_read(|| this.inner.since_last_data());
            }
            Some(connection) => connection.on_empty_read(),
            None => {}
        }
        polled
    }
}

impl<IO: AsyncWrite> AsyncWrite for StallIo<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        on_write(this.connection, this.inner.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        on_write(this.connection, this.inner.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }
}

/// Passes the result of a write through.
fn on_write(
    connection: &Option<Connection>,
    polled: Poll<io::Result<usize>>,
) -> Poll<io::Result<usize>> {
    if let (Some(connection), Poll::Ready(Ok(_))) = (connection, &polled) {
        connection.on_write();
    }
    polled
}

#[cfg(unix)]
mod unix {
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

    use super::StallIo;

    impl<IO: AsFd> AsFd for StallIo<IO> {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.get_ref().as_fd()
        }
    }

    impl<IO: AsRawFd> AsRawFd for StallIo<IO> {
        fn as_raw_fd(&self) -> RawFd {
            self.get_ref().as_raw_fd()
        }
    }
}

#[cfg(all(test, target_os = "linux", not(tower_stall_loom)))]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsRawFd, RawFd};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Waker;

    use super::*;
    use crate::os::Clock;
    use crate::state::tests::state;

    /// A socket that counts how often the kernel is asked about it.
    struct Counted {
        stream: TcpStream,
        questions: AtomicU64,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            match (&self.stream).read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    Poll::Ready(Ok(()))
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            }
        }
    }

    impl AsRawFd for Counted {
        fn as_raw_fd(&self) -> RawFd {
            self.questions.fetch_add(1, Ordering::Relaxed);
            self.stream.as_raw_fd()
        }
    }

    #[test]
    fn the_kernel_is_asked_about_reads_of_bytes_while_something_is_late_and_not_otherwise() {
        let time = Arc::new(AtomicU64::new(1_000));
        let monitor = state(Clock::Manual(Arc::clone(&time)));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut io = StallIo::new(Counted { stream, questions: AtomicU64::new(0) }, &monitor);
        let mut cx = Context::from_waker(Waker::noop());
        let mut poll = || Pin::new(&mut io).poll_read(&mut cx, &mut ReadBuf::new(&mut [0; 8]));
        let mut read = |rounds| {
            for _ in 0..rounds {
                client.write_all(b"request").unwrap();
                while poll().is_pending() {}
                assert!(poll().is_pending());
            }
        };
        read(100);
        monitor.lateness.mark(1_000);
        read(5);
        time.store(u64::MAX, Ordering::Relaxed);
        read(100);
        let questions = io.get_ref().questions.load(Ordering::Relaxed);
        assert_eq!(questions, 1 + 5, "once for the connection, and once for each late read");
    }
}
