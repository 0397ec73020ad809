use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::routes::Routes;

/// Why a monitor could not be spawned. Its text says what to change.
#[derive(Debug)]
pub struct SpawnError(Kind);

/// A stall threshold of zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThresholdError;

#[derive(Debug)]
enum Kind {
    NoRuntime,
    NoTimer,
    NoIo,
    Threshold(ThresholdError),
    MaxRoutes(usize),
    RuntimeName,
    Thread(io::Error),
    Signal(io::Error),
}

// === impl SpawnError ===

impl SpawnError {
    pub(crate) fn no_runtime() -> Self {
        Self(Kind::NoRuntime)
    }

    pub(crate) fn no_timer() -> Self {
        Self(Kind::NoTimer)
    }

    pub(crate) fn no_io() -> Self {
        Self(Kind::NoIo)
    }

    pub(crate) fn max_routes(routes: usize) -> Self {
        Self(Kind::MaxRoutes(routes))
    }

    pub(crate) fn runtime_name() -> Self {
        Self(Kind::RuntimeName)
    }

    pub(crate) fn signal(error: io::Error) -> Self {
        Self(Kind::Signal(error))
    }

    pub(crate) fn thread(error: io::Error) -> Self {
        Self(Kind::Thread(error))
    }
}

impl From<ThresholdError> for SpawnError {
    fn from(error: ThresholdError) -> Self {
        Self(Kind::Threshold(error))
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::NoRuntime => f.write_str(
                "no tokio runtime to watch: call `spawn` inside one, or give its handle to `StallMonitorBuilder::runtime`",
            ),
            Kind::NoTimer => {
                f.write_str("the tokio runtime has no timer: build it with `enable_time()` or `enable_all()`")
            }
            Kind::NoIo => f.write_str("the tokio runtime has no I/O driver: build it with `enable_io()` or `enable_all()`"),
            Kind::Threshold(error) => error.fmt(f),
            Kind::MaxRoutes(routes) => {
                write!(f, "max_routes is {routes}: it must be from 1 to {}, the default is 512", Routes::MOST)
            }
            Kind::RuntimeName => f.write_str("runtime_name is empty: it is a label's value, the default is \"main\""),
            Kind::Thread(error) => write!(f, "a watching thread could not be started: {error}"),
            Kind::Signal(error) => {
                write!(f, "the handler for SIGURG could not be installed, which `stack_signals(true)` needs: {error}")
            }
        }
    }
}

impl Error for SpawnError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Kind::Thread(error) | Kind::Signal(error) => Some(error),
            _ => None,
        }
    }
}

// === impl ThresholdError ===

impl ThresholdError {
    pub(crate) fn check(threshold: Duration) -> Result<(), Self> {
        if threshold.is_zero() { Err(Self) } else { Ok(()) }
    }
}

impl fmt::Display for ThresholdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the stall threshold is zero, which would make every poll a stall: give a longer one, the default is 25 ms",
        )
    }
}

impl Error for ThresholdError {}
