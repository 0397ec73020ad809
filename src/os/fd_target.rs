use std::fmt;
use std::io::Write as _;

use super::linux;

/// What a file descriptor refers to: a path, a pipe, or the peer of a socket.
#[derive(Clone, Copy)]
pub(crate) struct FdTarget {
    text: [u8; FdTarget::CAPACITY],
    length: usize,
}

impl FdTarget {
    const CAPACITY: usize = 160;

    /// Looks up the target of a file descriptor. Does not allocate.
    pub(crate) fn of(fd: u64) -> Option<Self> {
        let fd = libc::c_int::try_from(fd).ok()?;
        let mut target = Self { text: [0; Self::CAPACITY], length: 0 };
        target.length = linux::read_fd_link(fd, &mut target.text)?;
        if target.as_str().starts_with("socket:") {
            match linux::peer_address(fd) {
                Some(peer) => target.set(format_args!("socket to {peer}")),
                None => target.set(format_args!("socket")),
            }
        } else if target.as_str().starts_with("pipe:") {
            target.set(format_args!("pipe"));
        }
        Some(target)
    }

    pub(crate) fn as_str(&self) -> &str {
        let text = self.text.get(..self.length).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or("a file whose name is not UTF-8")
    }

    /// Sets the text, cut off at the capacity.
    fn set(&mut self, text: fmt::Arguments<'_>) {
        let mut rest = &mut self.text[..];
        let _ = rest.write_fmt(text);
        self.length = Self::CAPACITY - rest.len();
    }
}

impl fmt::Debug for FdTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};

    use super::*;

    fn target(file: &impl AsRawFd) -> String {
        FdTarget::of(file.as_raw_fd() as u64).unwrap().as_str().to_owned()
    }

    #[test]
    fn sockets_are_described_by_their_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        assert_eq!(target(&stream), format!("socket to {address}"));
        assert_eq!(target(&listener), "socket");
        if let Ok(listener) = TcpListener::bind("[::1]:0") {
            let address = listener.local_addr().unwrap();
            let stream = TcpStream::connect(address).unwrap();
            assert_eq!(target(&stream), format!("socket to {address}"));
        }
    }

    #[test]
    fn files_and_pipes_are_described() {
        let mut child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(target(child.stdout.as_ref().unwrap()), "pipe");
        child.wait().unwrap();
        assert_eq!(target(&std::fs::File::open("/dev/null").unwrap()), "/dev/null");
    }

    #[test]
    fn descriptors_that_are_not_open_have_no_target() {
        assert!(FdTarget::of(1 << 30).is_none());
        assert!(FdTarget::of(u64::MAX).is_none());
    }
}
