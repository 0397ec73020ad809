//! The socket under a stream.

use std::time::Duration;

/// A stream whose socket can be asked when data arrived: on Unix, any that has a file descriptor.
/// On other systems every stream, and none is asked.
pub trait Descriptor {
    /// Returns how long ago the last data arrived; `None` if that is not known.
    #[doc(hidden)]
    fn since_last_data(&self) -> Option<Duration>;
}

#[cfg(unix)]
impl<IO: std::os::fd::AsRawFd> Descriptor for IO {
    fn since_last_data(&self) -> Option<Duration> {
        crate::os::since_last_data(self.as_raw_fd())
    }
}

#[cfg(not(unix))]
impl<IO> Descriptor for IO {
    fn since_last_data(&self) -> Option<Duration> {
        None
    }
}
