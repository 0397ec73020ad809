//! System calls on Linux, each behind a safe function.

#![allow(unsafe_code)]

use std::fmt;
use std::io::Write;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::Tid;

impl Tid {
    pub(crate) fn current() -> Self {
        // SAFETY: no arguments, no memory, cannot fail.
        Self(unsafe { libc::gettid() })
    }
}

/// How long a thread of this process has run. `None` when it has ended.
pub(crate) fn cpu_time(thread: Tid) -> Option<Duration> {
    // The kernel's own encoding of "the scheduler's clock of that thread", as `pthread_getcpuclockid` gives it.
    clock((!thread.0 << 3) | 6)
}

/// How long the current thread has run.
pub(crate) fn own_cpu_time() -> Option<Duration> {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The monotonic clock in nanoseconds. May be called in a signal handler, as POSIX says of what it calls.
pub(crate) fn monotonic_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a struct that the kernel fills.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// The time stamp counter.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn time_stamp() -> u64 {
    // SAFETY: an instruction of every x86_64 that touches no memory. A kernel that forbids it to processes has not taken it as its own
    // clock for them, and then it is not asked here.
    unsafe { std::arch::x86_64::_rdtsc() }
}

fn clock(id: libc::clockid_t) -> Option<Duration> {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the pointer is to memory of the right size; an id that means nothing is refused.
    let is_read = unsafe { libc::clock_gettime(id, time.as_mut_ptr()) } == 0;
    // SAFETY: a call that returned 0 has written all of it.
    let time = is_read.then(|| unsafe { time.assume_init() })?;
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

/// Copies memory of this process, as much as can be read, and tells how much that was. An address that means nothing is no
/// fault here, which is why this is a system call.
pub(crate) fn copy_memory(from: u64, to: &mut [u8]) -> usize {
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let remote = libc::iovec { iov_base: from as *mut libc::c_void, iov_len: to.len() };
    // SAFETY: the kernel writes to `to` alone, which is borrowed mutably and plain bytes; what it reads it checks itself.
    let copied = unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(copied).unwrap_or(0)
}

/// What a file descriptor is, as far as it can be told at once: a path, a pipe, or a socket's other end.
#[derive(Clone, Copy)]
pub(crate) struct Descriptor {
    text: [u8; Descriptor::LONGEST],
    length: usize,
}

impl Descriptor {
    const LONGEST: usize = 160;

    /// Asks the kernel, and allocates nothing.
    pub(crate) fn of(descriptor: u64) -> Option<Self> {
        let descriptor = libc::c_int::try_from(descriptor).ok()?;
        let mut known = Self { text: [0; Self::LONGEST], length: 0 };
        known.read_link(descriptor)?;
        if known.as_str().starts_with("socket:") {
            known.set(format_args!("socket"));
            if let Some(peer) = peer(descriptor) {
                known.set(format_args!("socket to {peer}"));
            }
        } else if known.as_str().starts_with("pipe:") {
            known.set(format_args!("pipe"));
        }
        Some(known)
    }

    pub(crate) fn as_str(&self) -> &str {
        let text = self.text.get(..self.length).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or("a file whose name is not UTF-8")
    }

    fn set(&mut self, text: fmt::Arguments<'_>) {
        let mut rest = &mut self.text[..];
        let _ = rest.write_fmt(text);
        self.length = Self::LONGEST - rest.len();
    }

    fn read_link(&mut self, descriptor: libc::c_int) -> Option<()> {
        let mut path = [0; 32];
        write!(&mut path[..], "/proc/self/fd/{descriptor}\0").ok()?;
        // SAFETY: the path ends with a zero, and no more is written than the buffer is long.
        let length = unsafe { libc::readlink(path.as_ptr().cast(), self.text.as_mut_ptr().cast(), self.text.len()) };
        self.length = usize::try_from(length).ok()?;
        Some(())
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// The other end of an IP socket.
fn peer(descriptor: libc::c_int) -> Option<SocketAddr> {
    // Large enough for every kind of address, and aligned for it.
    let mut address = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::sockaddr_storage>()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the memory behind the pointer.
    let is_known = unsafe { libc::getpeername(descriptor, address.as_mut_ptr().cast(), &raw mut length) } == 0;
    if !is_known {
        return None;
    }
    // SAFETY: zeroes are a valid address of any kind, and the kernel wrote over some of them.
    let address = unsafe { address.assume_init() };
    match libc::c_int::from(address.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is this kind, which is smaller and needs no stricter alignment.
            let ip = unsafe { *(&raw const address).cast::<libc::sockaddr_in>() };
            let host = Ipv4Addr::from(ip.sin_addr.s_addr.to_ne_bytes());
            Some((host, u16::from_be(ip.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let ip = unsafe { *(&raw const address).cast::<libc::sockaddr_in6>() };
            Some((Ipv6Addr::from(ip.sin6_addr.s6_addr), u16::from_be(ip.sin6_port)).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    fn of(file: &impl AsRawFd) -> String {
        Descriptor::of(file.as_raw_fd() as u64).unwrap().as_str().to_owned()
    }

    #[test]
    fn descriptors_are_told_by_what_they_lead_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(of(&TcpStream::connect(address).unwrap()), format!("socket to {address}"));
        assert_eq!(of(&listener), "socket");
        if let Ok(listener) = TcpListener::bind("[::1]:0") {
            let address = listener.local_addr().unwrap();
            assert_eq!(of(&TcpStream::connect(address).unwrap()), format!("socket to {address}"));
        }
        let mut child = std::process::Command::new("true").stdout(std::process::Stdio::piped()).spawn().unwrap();
        assert_eq!(of(child.stdout.as_ref().unwrap()), "pipe");
        child.wait().unwrap();
        assert_eq!(of(&std::fs::File::open("/dev/null").unwrap()), "/dev/null");
        assert!(Descriptor::of(1 << 30).is_none());
        assert!(Descriptor::of(u64::MAX).is_none());
    }

    #[test]
    fn memory_that_is_not_there_is_not_copied() {
        let mut to = [0; 8];
        assert_eq!(copy_memory(8, &mut to), 0);
        let from = 0x0123_4567_89ab_cdef_u64;
        assert_eq!(copy_memory(std::ptr::from_ref(&from).addr() as u64, &mut to), 8);
        assert_eq!(u64::from_ne_bytes(to), from);
    }
}
