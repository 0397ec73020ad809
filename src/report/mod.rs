//! From what was measured to what is told: one thread writes reports, calls hooks and flushes the cells.

mod account;
mod limit;
mod quota;
mod reporter;
mod verdict;

pub(crate) use self::reporter::{Hook, Reporter};
