//! Finds out why the kernel refuses what it permitted when the monitor was started.

use std::fs::File;
use std::io::{self, Read, Write as _};

use crate::os::Tid;
use crate::stacks::CaptureFailure;

/// Returns why the state of a thread could not be read. The watchdog reads its own in the same way:
/// another thread's may be gone because it has ended. Neither allocates nor takes a lock.
pub(super) fn of_state() -> CaptureFailure {
    match read_own_state() {
        Ok(_) => CaptureFailure::Ended,
        Err(error) => of_error(&error),
    }
}

/// Returns why a stack could not be copied, from the error of the system call before.
pub(super) fn of_copy() -> CaptureFailure {
    of_error(&io::Error::last_os_error())
}

fn read_own_state() -> io::Result<usize> {
    let mut path = [0; 64];
    let mut rest = &mut path[..];
    write!(rest, "/proc/self/task/{}/syscall", Tid::current().0)?;
    let unused = rest.len();
    let path = std::str::from_utf8(&path[..path.len() - unused]).unwrap_or_default();
    File::open(path)?.read(&mut [0; 256])
}

fn of_error(error: &io::Error) -> CaptureFailure {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => CaptureFailure::NoDescriptor,
        Some(libc::EACCES | libc::EPERM | libc::ENOSYS | libc::ENOENT) => CaptureFailure::Denied,
        // The range is not mapped: the thread has ended, or has switched to another stack.
        _ => CaptureFailure::Torn,
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_its_own_reason() {
        let of = |code| of_error(&io::Error::from_raw_os_error(code));
        assert_eq!(of(libc::EMFILE), CaptureFailure::NoDescriptor);
        assert_eq!(of(libc::EPERM), CaptureFailure::Denied);
        assert_eq!(of(libc::EFAULT), CaptureFailure::Torn);
        assert_eq!(of_state(), CaptureFailure::Ended, "nothing is refused");
    }
}
