//! What `GET /stalls` shows.

use std::fmt;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::stall::Stall;

type Source = Box<dyn Fn() -> Vec<Stall> + Send + Sync>;

/// Where the stalls are asked for, at each request anew.
#[derive(Clone, Default)]
pub(super) struct Stalls(Arc<Mutex<Vec<Source>>>);

impl Stalls {
    pub(super) fn add(&self, source: Source) {
        self.sources().push(source);
    }

    pub(super) fn are_shown(&self) -> bool {
        !self.sources().is_empty()
    }

    /// Those in progress first, then the latest.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for stall in self.sources().iter().flat_map(|source| source().into_iter().rev()) {
            let _ = writeln!(text, "{stall}\n");
        }
        text
    }

    fn sources(&self) -> MutexGuard<'_, Vec<Source>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Stalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stalls").finish_non_exhaustive()
    }
}
