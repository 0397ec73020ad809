//! Finds the caller of a function that keeps its return address in a register, which `/proc` does
//! not tell of a blocked thread: in most cases the C library's wrapper of a system call.
//!
//! The function is known, and so is the stack pointer at its call. The caller's own return address
//! is on the stack, behind a call that names the caller. So every return address above the stack
//! pointer names a candidate. It counts if it calls the leaf, and if its tables state that the frame
//! of such a call, which begins at the stack pointer, has its return address there. If several
//! candidates count, or none does, the caller is not known, and the stack is not used. That is so if
//! the leaf or its caller was called through a pointer.
//!
//! A search for the next frame record would not do: it loses the caller itself. And where the caller
//! has room that it has not written to yet, there are records of earlier calls, with return addresses
//! that are long gone.

use std::collections::BTreeSet;
use std::ops::Range;

use gimli::UnwindContext;

use super::{CallSite, PC, SP, Step, UnwindFrame};
use crate::stacks::linux::arch;
use crate::stacks::linux::modules::Modules;
use crate::stacks::snapshot::{Registers, StackSnapshot};

/// The largest frame of a caller, in bytes.
const MAX_FRAME: u64 = 64 * 1024;

/// A function that has not saved its return address, and its caller's stack pointer.
#[derive(Clone, Copy)]
pub(super) struct Leaf {
    pub(super) function: u64,
    pub(super) sp: u64,
}

/// The caller of a leaf.
pub(super) struct LeafCaller {
    pub(super) frame: UnwindFrame,
    /// Other calls of the leaf in the same function, with the same frame: any of them may be the one
    /// that has not returned.
    pub(super) alternatives: Vec<CallSite>,
}

/// Where a leaf is searched for its caller.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) modules: &'a Modules,
    pub(super) stack: &'a StackSnapshot,
    pub(super) mark: u64,
}

// === impl Leaf ===

impl Leaf {
    /// Returns the caller, if it is the only one that the stack proves.
    pub(super) fn caller(self, surroundings: Surroundings<'_>) -> Option<LeafCaller> {
        let functions = surroundings.functions_called(self.sp).into_iter();
        let calls = functions.map(|function| self.calls_in(function, surroundings));
        let mut proven = calls.filter(|calls| !calls.is_empty());
        let (mut alternatives, another) = (proven.next()?, proven.next());
        let call = alternatives.remove(0);
        another
            .is_none()
            .then(|| LeafCaller { frame: self.frame_of_call(call.address), alternatives })
    }

    /// Returns the calls of the leaf in a function that may not have returned.
    fn calls_in(self, function: u64, surroundings: Surroundings<'_>) -> Vec<CallSite> {
        let Some(code) = surroundings.code_of(function) else { return Vec::new() };
        let calls = arch::calls_of(self.function, code);
        let is_proven = |call: &u64| self.is_proven(*call, function, surroundings);
        calls.into_iter().filter(is_proven).map(|address| CallSite { address }).collect()
    }

    /// Returns whether the return address of a function that has made a call of the leaf is where its
    /// tables state, behind a call of that function.
    fn is_proven(self, call: u64, function: u64, surroundings: Surroundings<'_>) -> bool {
        let Surroundings { modules, stack, mark } = surroundings;
        let (frame, mut context) = (self.frame_of_call(call), UnwindContext::new());
        let module = frame.instruction().and_then(|instruction| modules.find(instruction));
        let row = module.and_then(|module| module.cfi()?.row(call - 1, &mut context));
        let caller = row.and_then(|row| Step::new(frame, stack, row).caller(mark).ok());
        let return_address = caller.and_then(|caller| caller.get(PC));
        return_address.is_some_and(|pc| surroundings.functions_reached(pc).contains(&function))
    }

    /// Returns the frame of a function that has called the leaf.
    fn frame_of_call(self, call: u64) -> UnwindFrame {
        let mut frame = UnwindFrame { registers: Registers::default(), is_exact: false };
        frame.set(PC, Some(call));
        frame.set(SP, Some(self.sp));
        frame
    }
}

// === impl Surroundings ===

impl Surroundings<'_> {
    /// Returns the functions that have been called by those whose return addresses, or what looks
    /// like them, are above a stack pointer.
    fn functions_called(self, sp: u64) -> BTreeSet<u64> {
        let words = (sp..sp.saturating_add(MAX_FRAME)).step_by(8);
        let words = words.map_while(|address| self.stack.word(address)).map(arch::strip);
        let is_code = |word: &u64| self.modules.find(word.wrapping_sub(1)).is_some();
        words.filter(is_code).flat_map(|word| self.functions_reached(word)).collect()
    }

    /// Returns the functions that the call before a return address reaches: the one that is called,
    /// and those that it calls last, by a jump.
    fn functions_reached(self, return_address: u64) -> Vec<u64> {
        let Some(called) = arch::function_called(return_address) else { return Vec::new() };
        let mut functions = self.code_of(called).map(arch::functions_jumped_to).unwrap_or_default();
        functions.push(called);
        functions
    }

    /// Returns the code of the function that starts at an address.
    fn code_of(self, function: u64) -> Option<Range<u64>> {
        let mut context = UnwindContext::new();
        let row = self.modules.find(function)?.cfi()?.row(function, &mut context)?;
        Some(row.function()).filter(|code| code.start == function)
    }
}
