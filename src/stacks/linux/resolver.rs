//! The reporter's part: from a copy to frames with names and lines.

use super::symbols::Symbols;
use super::trim;
use super::unwind::{End, Unwinder};
use crate::stacks::{Capture, Resolved};

pub(crate) struct Resolver {
    unwinder: Unwinder,
    symbols: Symbols,
}

impl Resolver {
    pub(crate) fn new() -> Self {
        Self { unwinder: Unwinder::new(), symbols: Symbols::new() }
    }

    /// `None` where the copy makes no sense.
    pub(crate) fn resolve(&mut self, capture: &Capture) -> Option<Resolved> {
        let trace = self.unwinder.unwind(&capture.raw);
        if trace.end == End::Torn {
            return None;
        }
        let mut symbols = Vec::new();
        for call in &trace.calls {
            let module = self.unwinder.module_of(call.address);
            symbols.extend_from_slice(self.symbols.resolve(call.address, module));
        }
        Some(Resolved {
            handed_off: trim::is_inside_block_in_place(&symbols),
            is_on_worker: trim::is_on_worker(&symbols),
            lacks_lines: trim::lacks_lines(&symbols),
            frames: trim::trim(&symbols),
        })
    }
}
