use std::fmt;

/// One frame of the stack of a stalled thread.
///
/// Displays as `function at file:line`, or as `function (program+0x1234)` if the program has no debug
/// information.
///
/// ```
/// # fn example(stall: &tower_stall::Stall) {
/// for frame in stall.frames().iter().filter(|frame| frame.is_application()) {
///     println!("{} at {:?}", frame.function(), frame.location());
/// }
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Frame {
    pub(crate) function: String,
    pub(crate) location: Option<Location>,
    pub(crate) address: Option<String>,
    pub(crate) is_application: bool,
}

/// A line of source code.
///
/// Displays as `file:line`.
///
/// ```
/// # fn example(stall: &tower_stall::Stall) {
/// if let Some(location) = stall.location() {
///     println!("{} line {}", location.file(), location.line());
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Location {
    pub(crate) file: String,
    pub(crate) line: u32,
}

// === impl Frame ===

impl Frame {
    /// Returns the name of the function, or its address if the binary has no symbol for it.
    #[must_use]
    pub fn function(&self) -> &str {
        &self.function
    }

    /// Returns whether this is an application frame: not a frame of the standard library, a
    /// dependency, a C library or generated code.
    #[must_use]
    pub fn is_application(&self) -> bool {
        self.is_application
    }

    /// Returns the line of source code. `None` without line tables.
    #[must_use]
    pub fn location(&self) -> Option<&Location> {
        self.location.as_ref()
    }

    /// Returns where the call is in the program's file, such as `program+0x1234`. `None` if the
    /// program has debug information. See
    /// [how to resolve it](crate::guide::reports#without-debug-information).
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Some(location) => write!(f, "{} at {location}", self.function),
            None => f.write_str(&self.function),
        }?;
        match &self.address {
            Some(address) if *address != self.function => write!(f, " ({address})"),
            _ => Ok(()),
        }
    }
}

// === impl Location ===

impl Location {
    /// Returns the path of the source file, as it was passed to the compiler, but shortened: in the
    /// standard library and in dependencies, to the part from the crate's name; below the process's
    /// current directory, to the part below it.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Returns the line, counted from 1.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.line
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}
