//! Unwinds a copied stack, from the innermost call outwards.
//!
//! Every frame is validated before it counts: its code is in a module, its stack pointer is above
//! its callee's, and its return address follows a call. A copy that was taken while the thread
//! continued fails one of these checks sooner or later.
//!
//! Why not `framehop`:
//!
//! - It has no unknown register. `/proc` exposes the stack pointer and the program counter of a
//!   blocked thread, but not rbp, and with an rbp of 0 framehop ends as if it had reached the
//!   outermost frame: the outer calls would be missing without notice.
//! - It does not report whether the end of a frame is certain, and it does not validate return
//!   addresses. Both are needed to detect a torn copy.
//!
//! The tables are parsed and interpreted by `gimli`.

#[cfg(target_arch = "aarch64")]
mod leaf;
#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod without_tables;

use gimli::{
    CfaRule, EvaluationResult, Location as DwarfLocation, Register, RegisterRule, UnwindContext,
    UnwindExpression, Value,
};

#[cfg(target_arch = "aarch64")]
use self::leaf::{Leaf, LeafCaller, Surroundings};
use super::cfi::CfiRow;
use super::modules::{ModuleAt, Modules};
use super::{arch, memory};
use crate::stacks::snapshot::{Registers, StackSnapshot};

/// More calls than fit in the largest copy, unless their frames are tiny.
const MAX_FRAMES: usize = 32_768;
/// More steps than an expression in the tables takes.
const MAX_EXPRESSION_STEPS: u32 = 256;

/// More than the stack of any thread has, unless the user has asked for more.
const LARGEST_STACK: u64 = 1 << 30;

const FP: Register = Register(arch::FP);
const SP: Register = Register(arch::SP);
const PC: Register = Register(arch::PC);
/// The column of the return address in the tables.
const RETURN_ADDRESS: Register = Register(arch::RETURN_ADDRESS);

/// Unwinds stacks, and caches the tables of the modules.
pub(super) struct Unwinder {
    modules: Modules,
    context: UnwindContext<usize>,
}

/// The calls on a stack, the innermost first.
#[derive(Debug)]
pub(super) struct CallStack {
    pub(super) call_sites: Vec<CallSite>,
    /// Other calls in the same function, any of which may be the second one: where the kernel does
    /// not tell where a leaf returns to.
    pub(super) alternatives: Vec<CallSite>,
    pub(super) end: StopReason,
    /// Whether the calls are wanted, and known, up to the thread's outermost one.
    pub(super) is_whole: bool,
}

/// A call that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct CallSite {
    /// The address after the instruction, or after the first byte of the last one.
    pub(super) address: u64,
}

/// Why the unwinder stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    /// It reached the frame that calls the inner poll, which is the last call.
    Mark,
    /// It reached the outermost frame of the thread, or of a coroutine inside the poll.
    OutermostFrame,
    /// The calls so far are on another stack, such as that of a coroutine, which was entered from the
    /// thread's own one. Beyond the switch they are not known.
    OtherStack,
    /// The copy ends here, or the stack is too deep. The calls are correct, but there are more.
    Truncated,
    /// A check failed: the calls may be wrong.
    Inconsistent,
}

/// A function that has not returned, with its registers at its last call.
#[derive(Clone, Copy)]
struct UnwindFrame {
    registers: Registers,
    /// Whether `pc` is the last instruction, and not the one after it: in the leaf, and in a
    /// function that a signal has interrupted.
    is_exact: bool,
}

/// A frame, and the tables' row for it.
struct Step<'a> {
    frame: UnwindFrame,
    stack: &'a StackSnapshot,
    row: CfiRow<'a>,
}

// === impl Unwinder ===

impl Unwinder {
    /// Creates an unwinder that has read no modules yet.
    pub(super) fn new() -> Self {
        Self { modules: Modules::default(), context: UnwindContext::new() }
    }

    /// Returns the calls on a stack. If a check fails and the modules have changed, tries once
    /// more.
    pub(super) fn unwind(&mut self, stack: &StackSnapshot) -> CallStack {
        let trace = self.walk(stack);
        if trace.end == StopReason::Inconsistent && self.modules.refresh() {
            self.walk(stack)
        } else {
            trace
        }
    }

    /// Returns the module that contains a call.
    pub(super) fn module_of(&self, address: u64) -> Option<ModuleAt<'_>> {
        self.modules.at(address.wrapping_sub(1))
    }

    /// Returns the calls on a stack, with the modules as they were last read.
    fn walk(&mut self, stack: &StackSnapshot) -> CallStack {
        let mut frame = UnwindFrame { registers: stack.registers, is_exact: true };
        let mark = frame.mark(stack);
        let mut trace = CallStack {
            call_sites: Vec::new(),
            alternatives: Vec::new(),
            end: StopReason::Truncated,
            is_whole: false,
        };
        #[cfg(target_arch = "aarch64")]
        if let Some(caller) = self.caller_of_leaf(&frame, stack, mark) {
            trace.call_sites.extend(frame.call());
            (frame, trace.alternatives) = (caller.frame, caller.alternatives);
        }
        while trace.call_sites.len() < MAX_FRAMES {
            trace.call_sites.extend(frame.call());
            match self.caller(&frame, stack, mark) {
                Ok(caller) => frame = caller,
                Err(end) => {
                    let is_whole = stack.mark == u64::MAX && end == StopReason::OutermostFrame;
                    return CallStack { end, is_whole, ..trace };
                }
            }
        }
        trace
    }

    /// Returns the frame that called a leaf, if the leaf's return address is in a register that is
    /// not known.
    #[cfg(target_arch = "aarch64")]
    fn caller_of_leaf(
        &mut self,
        frame: &UnwindFrame,
        stack: &StackSnapshot,
        mark: u64,
    ) -> Option<LeafCaller> {
        let instruction = frame.instruction()?;
        let row = self.modules.find(instruction)?.cfi()?.row(instruction, &mut self.context)?;
        let leaf = Step::new(*frame, stack, row).leaf().filter(|leaf| leaf.sp <= mark)?;
        leaf.caller(Surroundings { modules: &self.modules, stack, mark })
    }

    /// Returns the frame that called this one, or why there is none.
    fn caller(
        &mut self,
        frame: &UnwindFrame,
        stack: &StackSnapshot,
        mark: u64,
    ) -> Result<UnwindFrame, StopReason> {
        let instruction = frame.instruction().ok_or(StopReason::Inconsistent)?;
        let module = self.modules.find(instruction).ok_or(StopReason::Inconsistent)?;
        let row = module.cfi().and_then(|cfi| cfi.row(instruction, &mut self.context));
        let caller = match row {
            Some(row) => {
                let step = Step::new(*frame, stack, row);
                let switched =
                    step.switches_stack(mark).filter(|pc| is_call_to(&self.modules, *pc));
                if switched.is_some() {
                    return Err(StopReason::OtherStack);
                }
                step.caller(mark)?
            }
            #[cfg(target_arch = "x86_64")]
            None => self.caller_by_code(frame, stack, mark)?,
            #[cfg(target_arch = "aarch64")]
            None => frame.caller_without_row(stack)?,
        };
        self.validate(&caller, mark)?;
        if caller.get(SP) > Some(mark) { Err(StopReason::Mark) } else { Ok(caller) }
    }

    /// Checks whether there can be such a caller.
    fn validate(&self, caller: &UnwindFrame, mark: u64) -> Result<(), StopReason> {
        let pc = caller.get(PC).ok_or(StopReason::Inconsistent)?;
        if pc == 0 && mark == u64::MAX {
            return Err(StopReason::OutermostFrame);
        }
        let instruction = caller.instruction().ok_or(StopReason::Inconsistent)?;
        let is_code = self.modules.find(instruction).is_some();
        if is_code && (caller.is_exact || arch::is_return_address(pc)) {
            Ok(())
        } else {
            Err(StopReason::Inconsistent)
        }
    }
}

/// Returns whether a call can return to an address.
fn is_call_to(modules: &Modules, pc: u64) -> bool {
    modules.find(pc.wrapping_sub(1)).is_some() && arch::is_return_address(pc)
}

// === impl UnwindFrame ===

impl UnwindFrame {
    fn get(&self, register: Register) -> Option<u64> {
        self.registers.get(register.0)
    }

    fn set(&mut self, register: Register, value: Option<u64>) {
        self.registers.set(register.0, value);
    }

    /// Returns an address inside the last instruction that was executed.
    fn instruction(&self) -> Option<u64> {
        self.get(PC)?.checked_sub(u64::from(!self.is_exact))
    }

    fn call(&self) -> Option<CallSite> {
        Some(CallSite { address: self.get(PC)?.wrapping_add(u64::from(self.is_exact)) })
    }

    /// Returns the mark that applies to the leaf. A leaf above the mark is on another stack, where
    /// the mark has no meaning.
    fn mark(&self, stack: &StackSnapshot) -> u64 {
        if self.get(SP) <= Some(stack.mark) { stack.mark } else { u64::MAX }
    }

    /// Returns the caller of a leaf that has no row: probably a few instructions of assembly that
    /// do not change the stack pointer.
    fn caller_without_row(&self, stack: &StackSnapshot) -> Result<Self, StopReason> {
        let sp = self.get(SP).filter(|_| self.is_exact).ok_or(StopReason::Inconsistent)?;
        let mut caller = Self { is_exact: false, ..*self };
        if arch::CALL_PUSHES {
            caller.set(PC, Some(word(stack, sp)?));
            caller.set(SP, sp.checked_add(8));
        } else {
            caller.set(PC, self.get(RETURN_ADDRESS).map(arch::strip));
        }
        Ok(caller)
    }
}

/// Returns the eight bytes at an address, or why there are none.
fn word(stack: &StackSnapshot, address: u64) -> Result<u64, StopReason> {
    stack.word(address).ok_or(if is_beyond(stack, address) {
        StopReason::Truncated
    } else {
        StopReason::Inconsistent
    })
}

/// Returns whether an address is beyond the end of the copy.
fn is_beyond(stack: &StackSnapshot, address: u64) -> bool {
    address.saturating_add(8) > stack.end()
}

// === impl Step ===

impl<'a> Step<'a> {
    fn new(frame: UnwindFrame, stack: &'a StackSnapshot, row: CfiRow<'a>) -> Self {
        let mut step = Self { frame, stack, row };
        if step.frame.get(FP).is_none() && step.cfa().is_none() {
            step.frame.set(FP, step.inferred_fp());
        }
        step
    }

    /// Returns the frame that called this one. It is not validated yet, except that it is above.
    fn caller(&self, mark: u64) -> Result<UnwindFrame, StopReason> {
        if self.is_outermost() {
            return Err(StopReason::OutermostFrame);
        }
        let cfa = self.cfa().filter(|cfa| cfa % 8 == 0).ok_or(StopReason::Inconsistent)?;
        // Where a call pushes nothing, a leaf may have no frame at all.
        let may_be_empty = !arch::CALL_PUSHES && self.frame.is_exact;
        if self.frame.get(SP) > Some(cfa) || self.frame.get(SP) == Some(cfa) && !may_be_empty {
            return Err(StopReason::Inconsistent);
        }
        let mut caller =
            UnwindFrame { registers: Registers::default(), is_exact: self.row.is_signal_frame() };
        caller.set(
            PC,
            Some(self.return_address(cfa).map_err(|end| self.end_beyond(end, cfa, mark))?),
        );
        caller.set(SP, Some(cfa));
        // All of them, although a CFA is relative to rsp or rbp almost everywhere: the loader's
        // lazy binding in glibc uses rbx, gcc uses r10 in a function that aligns its stack, and a
        // signal can interrupt a function anywhere, whose registers are then all in the signal
        // frame.
        for register in (0..PC.0).map(Register).filter(|&register| register != SP) {
            caller.set(register, self.restored(register, cfa));
        }
        Ok(caller)
    }

    /// Returns whether the tables state that nothing has called the function.
    fn is_outermost(&self) -> bool {
        let is_undefined = self.row.register(RETURN_ADDRESS) == RegisterRule::Undefined;
        // Otherwise the return address of a leaf is in its register. A function that has made a call
        // has lost it, and the frame pointer of the first one is zero.
        let is_first = !self.frame.is_exact && self.frame.get(FP).unwrap_or(0) == 0;
        is_undefined && (arch::CALL_PUSHES || is_first)
    }

    /// Returns the function, if its return address is in a register that is not known.
    #[cfg(target_arch = "aarch64")]
    fn leaf(&self) -> Option<Leaf> {
        let is_unknown = self.row.register(RETURN_ADDRESS) == RegisterRule::Undefined
            && self.frame.get(RETURN_ADDRESS).is_none();
        let leaf = Leaf { function: self.row.function().start, sp: self.cfa()? };
        is_unknown.then_some(leaf)
    }

    /// Returns the return address of a function that has switched to the stack that its callee is
    /// on, such as `stacker` has one: the frame's end, and with it the return address, is far from
    /// the callee's, on the stack that the thread has left.
    ///
    /// That stack is not part of the copy, so the address is read from memory. It was written
    /// before the switch, and stays until the function returns.
    fn switches_stack(&self, mark: u64) -> Option<u64> {
        let cfa = self.cfa().filter(|cfa| cfa % 8 == 0)?;
        let RegisterRule::Offset(offset) = self.row.register(RETURN_ADDRESS) else { return None };
        let address = cfa.checked_add_signed(offset)?;
        let is_copied = self.stack.word(address).is_some();
        let is_below_mark = cfa <= mark && (mark == u64::MAX || mark - cfa < LARGEST_STACK);
        let is_leaf = self.frame.is_exact;
        if is_leaf || is_copied || !is_below_mark || self.is_certain(cfa) {
            return None;
        }
        memory::array(address).map(u64::from_ne_bytes).map(arch::strip)
    }

    /// Returns the canonical frame address: the stack pointer before the call.
    fn cfa(&self) -> Option<u64> {
        match self.row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                self.frame.get(*register)?.checked_add_signed(*offset)
            }
            CfaRule::Expression(expression) => self.evaluate(expression, None),
        }
    }

    fn return_address(&self, cfa: u64) -> Result<u64, StopReason> {
        let address = match self.row.register(RETURN_ADDRESS) {
            RegisterRule::Offset(offset) => {
                word(self.stack, cfa.checked_add_signed(offset).ok_or(StopReason::Inconsistent)?)
            }
            RegisterRule::Undefined if self.frame.is_exact => {
                self.frame.get(RETURN_ADDRESS).ok_or(StopReason::Inconsistent)
            }
            _ => self.restored(RETURN_ADDRESS, cfa).ok_or(StopReason::Inconsistent),
        };
        address.map(arch::strip)
    }

    /// Returns why the unwinder stops at a frame whose return address could not be read.
    ///
    /// Unless its buffer was too small, the copy ends beyond the mark. So a frame whose return
    /// address is beyond the copy contains the mark: the unwinder has reached the frame that calls
    /// the inner poll. But such a frame is not validated by its return address. Take a leaf whose
    /// CFA is relative to rbp, with an rbp that is wrong and far too high: its CFA is beyond the
    /// copy, too, and the leaf alone would pass for the whole stack. So only a frame of a fixed
    /// size may be taken for the one at the mark.
    fn end_beyond(&self, end: StopReason, cfa: u64, mark: u64) -> StopReason {
        match end {
            StopReason::Truncated if !self.is_certain(cfa) => StopReason::Inconsistent,
            StopReason::Truncated if cfa > mark => StopReason::Mark,
            end => end,
        }
    }

    /// Returns whether the frame's size is fixed, so that its end follows from the stack pointer.
    fn is_certain(&self, cfa: u64) -> bool {
        match self.row.cfa() {
            CfaRule::RegisterAndOffset { register: SP, .. } => true,
            CfaRule::RegisterAndOffset { register: FP, offset } => {
                self.inferred_fp().and_then(|fp| fp.checked_add_signed(*offset)) == Some(cfa)
            }
            _ => false,
        }
    }

    /// Returns the frame pointer that the function's prologue has set up.
    fn inferred_fp(&self) -> Option<u64> {
        let height = arch::frame_pointer_height(self.row.pcs_with_cfa_register(FP)?)?;
        self.frame.get(SP)?.checked_add(height)
    }

    /// Returns the value of a register in the caller, if it is known.
    fn restored(&self, register: Register, cfa: u64) -> Option<u64> {
        match self.row.register(register) {
            RegisterRule::Undefined => {
                self.frame.get(register).filter(|_| arch::CALLEE_SAVED.contains(&register.0))
            }
            RegisterRule::SameValue => self.frame.get(register),
            RegisterRule::Offset(offset) => self.saved(register, cfa.checked_add_signed(offset)?),
            RegisterRule::ValOffset(offset) => cfa.checked_add_signed(offset),
            RegisterRule::Register(other) => self.frame.get(other),
            RegisterRule::Expression(expression) => {
                self.saved(register, self.evaluate(&expression, Some(cfa))?)
            }
            RegisterRule::ValExpression(expression) => self.evaluate(&expression, Some(cfa)),
            _ => None,
        }
    }

    /// Returns the value that was saved at an address. Below the stack pointer it is no longer
    /// saved: an epilogue has already restored it.
    fn saved(&self, register: Register, address: u64) -> Option<u64> {
        if Some(address) < self.frame.get(SP) {
            self.frame.get(register)
        } else {
            self.stack.word(address)
        }
    }

    /// Evaluates an expression to an address. Signal frames and the procedure linkage table have
    /// expressions.
    fn evaluate(&self, expression: &UnwindExpression<usize>, cfa: Option<u64>) -> Option<u64> {
        let mut evaluation = self.row.expression(expression)?.evaluation(self.row.encoding());
        evaluation.set_max_iterations(MAX_EXPRESSION_STEPS);
        if let Some(cfa) = cfa {
            evaluation.set_initial_value(cfa);
        }
        let mut state = evaluation.evaluate();
        loop {
            state = match state.ok()? {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    evaluation.resume_with_register(Value::Generic(self.frame.get(register)?))
                }
                EvaluationResult::RequiresMemory { address, size: 8, .. } => {
                    evaluation.resume_with_memory(Value::Generic(self.stack.word(address)?))
                }
                _ => return None,
            };
        }
        match evaluation.as_result() {
            [piece] => match piece.location {
                DwarfLocation::Address { address } => Some(address),
                _ => None,
            },
            _ => None,
        }
    }
}
