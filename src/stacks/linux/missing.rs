//! Why a stack shows no line of the application.

use super::origin::Origin;
use super::symbol::Symbol;
use super::unwind::StopReason;
use crate::stacks::CaptureFailure;
use crate::stall::Frame;

/// Returns `None` if there is a line, or if there is no application frame to have one. `program` is
/// why the debug information of the program is not known.
pub(super) fn missing(
    symbols: &[Symbol],
    frames: &[Frame],
    end: StopReason,
    program: Option<CaptureFailure>,
) -> Option<CaptureFailure> {
    if frames.iter().any(|frame| frame.is_application && frame.location.is_some()) {
        return None;
    }
    let mut own = symbols.iter().filter(|symbol| symbol.is_program).peekable();
    let has_own = own.peek().is_some();
    if has_own && program.is_some() {
        program
    } else if has_own && own.clone().all(|symbol| symbol.is_unnamed) {
        Some(CaptureFailure::NoSymbols)
    } else if has_own
        && own.all(|symbol| symbol.line.is_none() || Origin::of(symbol) == Origin::Std)
    {
        // The standard library's own lines are part of it.
        Some(CaptureFailure::NoLines)
    } else if end == StopReason::Truncated {
        Some(CaptureFailure::Truncated)
    } else if end == StopReason::OtherStack {
        Some(CaptureFailure::OtherStack)
    } else {
        None
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::linux::test_symbols::{
        application, dependency, named, native, std, unnamed,
    };
    use crate::stacks::linux::trim::trim;

    fn reason(symbols: &[Symbol], end: StopReason) -> Option<CaptureFailure> {
        missing(symbols, &trim(symbols), end, None)
    }

    #[test]
    fn a_stack_without_a_line_has_a_reason() {
        let mark = StopReason::Mark;
        let sleep = std("std::thread::sleep", "std/src/thread/mod.rs");
        let handler = application("handler", 3);
        let library = dependency("brotli::compress", "brotli-1.0.0/src/lib.rs");
        assert_eq!(reason(&[native("read"), unnamed(), handler], mark), None);
        assert_eq!(reason(&[native("read"), library.clone()], mark), None, "it has none");
        let stripped = [native("read"), unnamed(), unnamed()];
        assert_eq!(reason(&stripped, mark), Some(CaptureFailure::NoSymbols));
        let no_file = Some(CaptureFailure::NoFile);
        assert_eq!(missing(&stripped, &[], mark, no_file), no_file);
        let names = [native("read"), sleep, named("app::handler")];
        assert_eq!(reason(&names, mark), Some(CaptureFailure::NoLines));
        let cut_off = [native("read"), library];
        assert_eq!(reason(&cut_off, StopReason::Truncated), Some(CaptureFailure::Truncated));
        assert_eq!(reason(&cut_off, StopReason::OtherStack), Some(CaptureFailure::OtherStack));
        assert_eq!(reason(&[native("read")], mark), None);
    }
}
