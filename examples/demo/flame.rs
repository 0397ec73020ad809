//! A flame graph of where the time of stalls went.

use std::fs::File;
use std::io;
use std::path::Path;

use inferno::flamegraph::{self, Options};

/// The file that the graph is written to, opened at the start so that a path that leads nowhere is known at once.
pub(crate) struct Flamegraph(File);

impl Flamegraph {
    pub(crate) fn create(path: &Path) -> Result<Self, String> {
        File::create(path).map(Self).map_err(|error| format!("--flamegraph {}: {error}", path.display()))
    }

    /// Draws stacks, which are lines of the form `outer;inner milliseconds`.
    pub(crate) fn draw(self, stacks: &str) -> io::Result<()> {
        let mut options = Options::default();
        options.title = "Where stalls took the workers' time".into();
        options.count_name = "ms".into();
        flamegraph::from_lines(&mut options, stacks.lines(), self.0).map_err(io::Error::other)
    }
}
