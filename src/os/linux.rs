//! System calls on Linux, each behind a safe function.
//!
//! Hand-written on `libc`: the watchdog needs calls that neither allocate nor lock, and the signal
//! handler needs one that is async-signal-safe.

#![allow(unsafe_code)]

use std::io::Write as _;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::Tid;
use super::posix::clock;

impl Tid {
    pub(crate) fn current() -> Self {
        // SAFETY: `gettid` takes no arguments, accesses no memory and cannot fail.
        let tid = unsafe { libc::gettid() };
        Self(tid.unsigned_abs().into())
    }
}

/// Returns the CPU time of a thread of this process; `None` if it has ended.
pub(crate) fn cpu_time(thread: Tid) -> Option<Duration> {
    // The kernel's encoding of "the scheduler's clock of that thread", which is also what
    // `pthread_getcpuclockid` returns.
    clock(((!thread.0 << 3) | 6) as libc::clockid_t)
}

/// Returns how many page faults the current thread has had, whether they read from disk or not.
pub(crate) fn thread_page_faults() -> Option<u64> {
    let usage = thread_usage()?;
    u64::try_from(usage.ru_minflt.saturating_add(usage.ru_majflt)).ok()
}

/// Returns how often the kernel has taken the current thread off the CPU, although it could have
/// gone on.
pub(crate) fn thread_preemptions() -> Option<u64> {
    u64::try_from(thread_usage()?.ru_nivcsw).ok()
}

fn thread_usage() -> Option<libc::rusage> {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the pointer is to memory for an `rusage`, to which the kernel writes.
    let is_read = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) } == 0;
    // SAFETY: a call that returned 0 has initialized the value.
    is_read.then(|| unsafe { usage.assume_init() })
}

/// Returns the monotonic clock in nanoseconds. Async-signal-safe, because `clock_gettime` is.
#[cfg(stacks_supported)]
pub(crate) fn monotonic_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid `timespec`, to which the kernel writes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// Returns the time stamp counter.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn rdtsc() -> u64 {
    // SAFETY: `rdtsc` exists on every x86_64 processor and accesses no memory. A kernel that denies
    // it to processes does not use it as its own clock source either, and then it is not read here.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Returns the generic timer's counter.
#[cfg(target_arch = "aarch64")]
#[inline]
pub(super) fn cntvct() -> u64 {
    let ticks;
    // SAFETY: the register exists on every aarch64 processor, and reading it accesses no memory. A
    // kernel that denies it to processes does not use it as its own clock source either, and then it
    // is not read here.
    unsafe {
        std::arch::asm!(
            "mrs {}, cntvct_el0",
            out(reg) ticks,
            options(nomem, nostack, preserves_flags)
        );
    }
    ticks
}

/// Returns an address without the signature that a return address may have. Where the processor
/// knows no signatures, it is the same address.
#[cfg(all(stacks_supported, target_arch = "aarch64"))]
pub(crate) fn strip_authentication_code(address: u64) -> u64 {
    let stripped;
    // SAFETY: the instruction, `xpaclri`, changes only x30, which is declared. Older processors
    // ignore it.
    unsafe {
        std::arch::asm!(
            "hint 7",
            inout("x30") address => stripped,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    stripped
}

/// The file `/proc/self/mem`, opened where `process_vm_readv` is not permitted; -1 before.
#[cfg(stacks_supported)]
static OWN_MEMORY: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(-1);

/// Copies memory of this process, up to the first byte that is not readable, and returns the number
/// of bytes copied. Async-signal-safe: raw system calls.
///
/// An address that is not mapped is not a fault, because the kernel does the copying.
#[cfg(stacks_supported)]
pub(crate) fn read_process_memory(from: u64, to: &mut [u8]) -> usize {
    let own_memory = OWN_MEMORY.load(std::sync::atomic::Ordering::Relaxed);
    if own_memory >= 0 {
        return read_own_memory(own_memory, from, to);
    }
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let remote = libc::iovec { iov_base: from as *mut libc::c_void, iov_len: to.len() };
    // SAFETY: the kernel writes only to `to`, which is borrowed mutably and consists of plain
    // bytes; it validates the remote range itself.
    let copied = unsafe {
        libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
    };
    usize::try_from(copied).unwrap_or(0)
}

/// Reads `/proc/self/mem`, which ends at a page that is not readable, as the system call does.
#[cfg(stacks_supported)]
fn read_own_memory(file: libc::c_int, from: u64, to: &mut [u8]) -> usize {
    let Ok(from) = libc::off_t::try_from(from) else { return 0 };
    // SAFETY: the kernel writes at most `to.len()` bytes to `to`, which is borrowed mutably and
    // consists of plain bytes; it validates the addresses that it reads from.
    let copied = unsafe { libc::pread(file, to.as_mut_ptr().cast(), to.len(), from) };
    usize::try_from(copied).unwrap_or(0)
}

/// Opens `/proc/self/mem` for [`read_process_memory`] if `process_vm_readv` is not permitted, as by
/// a seccomp filter. Returns whether it has been opened by this call. It stays open.
///
/// Neither allocates nor takes a lock. A child of `fork` would read the memory of its parent, but
/// captures no stacks.
#[cfg(stacks_supported)]
pub(crate) fn open_own_memory() -> bool {
    use std::sync::atomic::Ordering::Relaxed;
    let is_refused = || {
        let mut byte = [0];
        let here = (&raw const byte).addr() as u64;
        let is_read = read_process_memory(here, &mut byte) == 1;
        let refusal = std::io::Error::last_os_error().raw_os_error();
        !is_read && matches!(refusal, Some(libc::EPERM | libc::ENOSYS | libc::EACCES))
    };
    if OWN_MEMORY.load(Relaxed) >= 0 || !is_refused() {
        return false;
    }
    // SAFETY: the path ends with a zero byte.
    let file = unsafe { libc::open(c"/proc/self/mem".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return false;
    }
    let is_first = OWN_MEMORY.compare_exchange(-1, file, Relaxed, Relaxed).is_ok();
    if !is_first {
        // SAFETY: the descriptor was just opened, and is used nowhere else.
        unsafe { libc::close(file) };
    }
    is_first
}

/// Reads the link `/proc/self/fd/N` of file descriptor N, and returns its length.
pub(super) fn read_fd_link(fd: libc::c_int, text: &mut [u8]) -> Option<usize> {
    let mut path = [0; 32];
    write!(&mut path[..], "/proc/self/fd/{fd}\0").ok()?;
    // SAFETY: the path ends with a zero byte, and at most `text.len()` bytes are written.
    let length =
        unsafe { libc::readlink(path.as_ptr().cast(), text.as_mut_ptr().cast(), text.len()) };
    usize::try_from(length).ok()
}

/// Returns the address of the peer of an IP socket.
pub(super) fn peer_address(fd: libc::c_int) -> Option<SocketAddr> {
    // Large enough for every kind of address, and aligned for it.
    let mut address = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::sockaddr_storage>()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes, the size of the memory behind the pointer.
    let is_known =
        unsafe { libc::getpeername(fd, address.as_mut_ptr().cast(), &raw mut length) } == 0;
    if !is_known {
        return None;
    }
    // SAFETY: zeroes are a valid address of any kind; the kernel has overwritten some of them.
    let address = unsafe { address.assume_init() };
    match libc::c_int::from(address.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is a `sockaddr_in`, which is smaller and has no
            // stricter alignment.
            let ip = unsafe { *(&raw const address).cast::<libc::sockaddr_in>() };
            let host = Ipv4Addr::from(ip.sin_addr.s_addr.to_ne_bytes());
            Some((host, u16::from_be(ip.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is a `sockaddr_in6`, which is smaller and has no
            // stricter alignment.
            let ip = unsafe { *(&raw const address).cast::<libc::sockaddr_in6>() };
            Some((Ipv6Addr::from(ip.sin6_addr.s6_addr), u16::from_be(ip.sin6_port)).into())
        }
        _ => None,
    }
}

/// Returns how long ago the last data arrived at a TCP socket, to the precision of
/// [`scheduler_tick`]; `None` for other sockets and other files.
pub(crate) fn since_last_data(fd: libc::c_int) -> Option<Duration> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes, the size of the memory behind the pointer,
    // and rejects a descriptor that is not a TCP socket.
    let result = unsafe {
        let info = info.as_mut_ptr().cast();
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info, &raw mut length)
    };
    const NEEDED: usize = std::mem::offset_of!(libc::tcp_info, tcpi_last_data_recv) + 4;
    if result != 0 || (length as usize) < NEEDED {
        return None;
    }
    // SAFETY: it consists of integers, for which zeroes are valid; the kernel has overwritten some.
    let info = unsafe { info.assume_init() };
    Some(Duration::from_millis(info.tcpi_last_data_recv.into()))
}

/// Returns the resolution of the times that the kernel takes from its scheduler's tick: 1 to 10 ms.
pub(crate) fn scheduler_tick() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid `timespec`, to which the kernel writes.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    let is_plausible = time.tv_sec == 0 && (100_000..=10_000_000).contains(&time.tv_nsec);
    Duration::from_nanos(if is_plausible { time.tv_nsec as u64 } else { 10_000_000 })
}

#[cfg(all(test, stacks_supported))]
mod tests {
    use super::*;

    #[cfg(target_arch = "aarch64")]
    #[test]
    fn a_signed_address_is_stripped() {
        let here = a_signed_address_is_stripped as fn() as usize as u64;
        let addresses = || (0..64).map(|offset| here + 4 * offset);
        let sign = |address: u64| {
            let signed: u64;
            // SAFETY: the instruction, `paciaz`, changes only x30, which is declared. Older
            // processors ignore it.
            unsafe { std::arch::asm!("hint 24", inout("x30") address => signed) };
            signed
        };
        // SAFETY: the call accesses no memory of ours.
        let features = unsafe { libc::getauxval(libc::AT_HWCAP) };
        let is_signing = features & libc::HWCAP_PACA != 0;
        assert_eq!(addresses().any(|address| sign(address) != address), is_signing);
        for address in addresses() {
            assert_eq!(strip_authentication_code(sign(address)), address);
            assert_eq!(strip_authentication_code(address), address);
        }
    }

    #[test]
    fn unmapped_memory_is_not_copied() {
        use std::os::fd::AsRawFd as _;

        let own_memory = std::fs::File::open("/proc/self/mem").unwrap();
        let by_file = |from, to: &mut [u8]| read_own_memory(own_memory.as_raw_fd(), from, to);
        for read in [&read_process_memory as &dyn Fn(u64, &mut [u8]) -> usize, &by_file] {
            let mut to = [0; 8];
            assert_eq!(read(8, &mut to), 0);
            assert_eq!(read(u64::MAX - 8, &mut to), 0);
            let from = 0x0123_4567_89ab_cdef_u64;
            assert_eq!(read(std::ptr::from_ref(&from).addr() as u64, &mut to), 8);
            assert_eq!(u64::from_ne_bytes(to), from);
        }
        assert!(!open_own_memory(), "the system call is permitted");
    }
}
