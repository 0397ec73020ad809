//! From what was measured to what is told: one thread classifies stalls, writes reports, calls hooks and flushes the cells.

mod inbox;
mod limit;
mod reporter;
mod stall;
mod trace;

pub(crate) use self::inbox::{Finished, Inbox, Sighting};
pub(crate) use self::reporter::{Board, Hook, Reporter};
pub use self::stall::{Cause, Frame, Location, Stall};
pub(crate) use self::trace::{SpanRef, Tracing};
