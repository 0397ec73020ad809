use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::routes::Routes;

/// An option of a monitor that is not valid, or the reason why its threads could not be started.
///
/// Returned by [`StallMonitorBuilder::spawn`](crate::StallMonitorBuilder::spawn) and
/// [`StallMonitor::set_stall_threshold`](crate::StallMonitor::set_stall_threshold).
///
/// The message says what to change; the operating system's error, if there is one, is the
/// [`source`](std::error::Error::source).
///
/// ```
/// use std::time::Duration;
///
/// use tower_stall::StallMonitor;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let error = StallMonitor::builder().stall_threshold(Duration::ZERO).spawn().unwrap_err();
/// assert!(error.is_invalid_option());
/// assert_eq!(
///     error.to_string(),
///     "`stall_threshold` must be greater than zero (the default is 25 ms)",
/// );
/// # }
/// ```
pub struct Error(ErrorKind);

enum ErrorKind {
    NoRuntime,
    NoTimer,
    Threshold,
    MaxRoutes(usize),
    RuntimeName,
    Thread(io::Error),
    Signal(io::Error),
}

impl Error {
    /// Returns whether an option is out of range: choose another value.
    ///
    /// ```
    /// # #[tokio::main] async fn main() {
    /// let error = tower_stall::StallMonitor::builder().max_routes(0).spawn().unwrap_err();
    /// assert!(error.is_invalid_option());
    /// # }
    /// ```
    #[must_use]
    pub fn is_invalid_option(&self) -> bool {
        matches!(self.0, ErrorKind::Threshold | ErrorKind::MaxRoutes(_) | ErrorKind::RuntimeName)
    }

    /// Returns whether there is no suitable runtime: none at all, or one without a timer.
    ///
    /// ```
    /// let error = tower_stall::StallMonitor::builder().spawn().unwrap_err();
    /// assert!(error.is_runtime(), "outside a runtime");
    /// ```
    #[must_use]
    pub fn is_runtime(&self) -> bool {
        matches!(self.0, ErrorKind::NoRuntime | ErrorKind::NoTimer)
    }

    /// Returns whether the operating system refused a thread, a pair of sockets or a signal
    /// handler: the [`source`](std::error::Error::source) is its error.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), tower_stall::Error> {
    /// use tower_stall::StallMonitor;
    ///
    /// let monitor = match StallMonitor::builder().stack_signals(true).spawn() {
    ///     // For example, a sandbox forbids the handler.
    ///     Err(error) if error.is_os() => StallMonitor::builder().spawn()?,
    ///     result => result?,
    /// };
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_os(&self) -> bool {
        matches!(self.0, ErrorKind::Thread(_) | ErrorKind::Signal(_))
    }

    pub(crate) fn no_runtime() -> Self {
        Self(ErrorKind::NoRuntime)
    }

    pub(crate) fn no_timer() -> Self {
        Self(ErrorKind::NoTimer)
    }

    pub(crate) fn thread(error: io::Error) -> Self {
        Self(ErrorKind::Thread(error))
    }

    pub(crate) fn signal(error: io::Error) -> Self {
        Self(ErrorKind::Signal(error))
    }

    pub(crate) fn check_threshold(threshold: Duration) -> Result<(), Self> {
        if threshold.is_zero() { Err(Self(ErrorKind::Threshold)) } else { Ok(()) }
    }

    pub(crate) fn check_max_routes(max_routes: usize) -> Result<(), Self> {
        let is_valid = (1..=Routes::MAX).contains(&max_routes);
        if is_valid { Ok(()) } else { Err(Self(ErrorKind::MaxRoutes(max_routes))) }
    }

    pub(crate) fn check_runtime_name(name: &str) -> Result<(), Self> {
        if name.is_empty() { Err(Self(ErrorKind::RuntimeName)) } else { Ok(()) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ErrorKind::NoRuntime => f.write_str(
                "no tokio runtime to watch: call `spawn` inside a runtime, or pass a handle to \
                 `StallMonitorBuilder::runtime`",
            ),
            ErrorKind::NoTimer => f.write_str(
                "the tokio runtime has no timer: build it with `enable_time()` or `enable_all()`",
            ),
            ErrorKind::Threshold => {
                f.write_str("`stall_threshold` must be greater than zero (the default is 25 ms)")
            }
            ErrorKind::MaxRoutes(max_routes) => write!(
                f,
                "`max_routes` must be between 1 and {}, but is {max_routes} (the default is 512)",
                Routes::MAX
            ),
            ErrorKind::RuntimeName => f.write_str(
                "`runtime_name` must not be empty (it is used as a label value; the default is \
                 \"main\")",
            ),
            ErrorKind::Thread(_) => f.write_str("failed to start the monitor's threads"),
            ErrorKind::Signal(_) => {
                f.write_str("failed to install the SIGURG handler that `stack_signals(true)` needs")
            }
        }
    }
}

/// The message, which `main` shows if it returns the error, and the source.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_debug("Error", self, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0 {
            ErrorKind::Thread(error) | ErrorKind::Signal(error) => Some(error),
            _ => None,
        }
    }
}

/// Writes an error's name, message and source.
pub(crate) fn write_debug(
    name: &str,
    error: &dyn StdError,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let mut tuple = f.debug_tuple(name);
    tuple.field(&format_args!("{error}"));
    if let Some(source) = error.source() {
        tuple.field(&format_args!("{source}"));
    }
    tuple.finish()
}
