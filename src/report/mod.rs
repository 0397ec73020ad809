//! From what was measured to what is told: one thread writes reports, calls hooks and flushes the cells.

mod limit;
mod reporter;

pub(crate) use self::reporter::{Hook, Reporter};
