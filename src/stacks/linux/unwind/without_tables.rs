//! The caller of a function that has no row in the tables, such as one of assembly, or of musl.

use super::{PC, SP, StopReason, UnwindFrame, Unwinder, is_call_to};
use crate::stacks::linux::arch;
use crate::stacks::snapshot::{Registers, StackSnapshot};

impl Unwinder {
    /// Returns the caller of a function that has no row, from its code.
    pub(super) fn caller_by_code(
        &self,
        frame: &UnwindFrame,
        stack: &StackSnapshot,
        mark: u64,
    ) -> Result<UnwindFrame, StopReason> {
        let returns = arch::returns(&frame.registers, stack);
        if returns.is_empty() && frame.is_exact {
            return frame.caller_without_row(stack);
        }
        let returned = returns.into_iter().map(|registers| returned(registers, stack));
        let may_be = |caller: &UnwindFrame| {
            let is_above = caller.get(SP) > frame.get(SP);
            is_above && caller.get(PC).is_some_and(|pc| is_call_to(&self.modules, pc))
        };
        let mut callers: Vec<_> = returned.flatten().filter(may_be).collect();
        if callers.is_empty() && mark == u64::MAX && self.is_started(frame, stack) {
            return Err(StopReason::OutermostFrame);
        }
        if callers.len() > 1 {
            // A word that an earlier call has left on the stack looks like a return address.
            callers.retain(|caller| is_called_by(frame, caller, stack));
        }
        match callers[..] {
            [caller] => Ok(caller),
            _ => Err(StopReason::Inconsistent),
        }
    }

    /// Returns whether a function was called by the code at which the program or a thread starts.
    /// In musl, such a function never returns, so that the place of its return address is not
    /// known. Its frame is small.
    fn is_started(&self, frame: &UnwindFrame, stack: &StackSnapshot) -> bool {
        const MAX_WORDS: u64 = 32;
        let Some(sp) = frame.get(SP) else { return false };
        let words = (0..MAX_WORDS).filter_map(|index| stack.word(sp.checked_add(index * 8)?));
        let is_start = |pc: &u64| {
            let module = self.modules.find(pc.wrapping_sub(1));
            module.is_some_and(|module| module.is_at_entry(*pc) || arch::exits(*pc))
        };
        words.filter(|pc| is_call_to(&self.modules, *pc)).any(|pc| is_start(&pc))
    }
}

/// Returns the caller of a function, with the registers before the instruction that returns.
fn returned(registers: Registers, stack: &StackSnapshot) -> Result<UnwindFrame, StopReason> {
    let at_return = UnwindFrame { registers, is_exact: true };
    at_return.caller_without_row(stack)
}

/// Returns whether the call that returns to `caller` has led to a frame.
fn is_called_by(frame: &UnwindFrame, caller: &UnwindFrame, stack: &StackSnapshot) -> bool {
    let Some((pc, sp)) = caller.get(PC).zip(caller.get(SP)) else { return false };
    arch::call_targets(pc).any(|target| {
        let place = sp.wrapping_sub(8);
        arch::leads_to(&frame.registers, target, place, stack)
    })
}
