//! Walks a copied stack, from the innermost call outwards.
//!
//! Every frame is proved before it counts: its code belongs to a module, its stack pointer lies above its callee's, and
//! its return address follows a call. A copy that was taken while the thread ran on fails one of these sooner or later.

use std::path::Path;

use gimli::{CfaRule, EvaluationResult, Location, Register, RegisterRule, UnwindContext, UnwindExpression, Value};

use super::modules::Modules;
use super::tables::Rules;
use super::{callsite, prologue};
use crate::stacks::raw::{RawStack, Registers};

/// More calls than any report can use. A deeper stack is a recursion.
const MOST_CALLS: usize = 512;
/// More steps than any expression in the tables takes.
const MOST_STEPS: u32 = 256;

const RBP: Register = Register(6);
const RSP: Register = Register(7);
const PC: Register = Register(16);
/// The registers that a function hands back as it got them, if its tables say nothing else: rbx, rbp, r12 to r15.
const KEPT: [u16; 6] = [3, 6, 12, 13, 14, 15];

/// Walks stacks, and keeps what it has read of the modules for the next one.
pub(super) struct Unwinder {
    modules: Modules,
    context: UnwindContext<usize>,
}

/// The calls on a stack, the innermost first.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) calls: Vec<Call>,
    pub(super) end: End,
}

/// A place in the code that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Call {
    /// The address behind the instruction, as `backtrace::resolve` wants it.
    pub(super) address: u64,
}

/// Why a walk has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// At the meter's own frame, which is the last call.
    Mark,
    /// At the thread's outermost frame, or that of a stack that somebody switched to inside the poll.
    Start,
    /// The copy ends here or the walk is long enough; the calls are true, but there are more.
    Full,
    /// Something does not fit: the calls may be wrong.
    Torn,
}

/// A function that has not returned, as its registers were when it made its last call.
#[derive(Clone, Copy)]
struct Frame {
    registers: Registers,
    /// The instruction at `pc` is the last one, not the one after it: the leaf, or a function that a signal
    /// interrupted.
    is_exact: bool,
}

/// One frame with what is needed to find its caller.
struct Step<'a> {
    frame: Frame,
    stack: &'a RawStack,
    rules: Rules<'a>,
}

// === impl Unwinder ===

impl Unwinder {
    /// Reads nothing yet.
    pub(super) fn new() -> Self {
        Self { modules: Modules::default(), context: UnwindContext::new() }
    }

    /// The calls on a stack. Where something does not fit and the modules have changed meanwhile, it is tried again.
    pub(super) fn unwind(&mut self, stack: &RawStack) -> Trace {
        let trace = self.walk(stack);
        if trace.end == End::Torn && self.modules.refresh() { self.walk(stack) } else { trace }
    }

    /// The path of the module that a call lies in, whether that is the one this crate is part of, and what was added to
    /// the addresses in its file. The one this crate is part of is the main executable, save where the service is
    /// itself a library.
    pub(super) fn module_of(&self, address: u64) -> Option<(&Path, bool, u64)> {
        let module = self.modules.find(address.wrapping_sub(1))?;
        Some((module.path(), module.is_own(), module.bias()))
    }

    fn walk(&mut self, stack: &RawStack) -> Trace {
        let mut frame = Frame { registers: stack.registers, is_exact: true };
        let mark = frame.mark(stack);
        let mut calls = Vec::new();
        while calls.len() < MOST_CALLS {
            calls.extend(frame.call());
            match self.caller(&frame, stack, mark) {
                Ok(caller) => frame = caller,
                Err(end) => return Trace { calls, end },
            }
        }
        Trace { calls, end: End::Full }
    }

    /// The frame that called this one, or why there is none.
    fn caller(&mut self, frame: &Frame, stack: &RawStack, mark: u64) -> Result<Frame, End> {
        let instruction = frame.instruction().ok_or(End::Torn)?;
        let module = self.modules.find(instruction).ok_or(End::Torn)?;
        let rules = module.tables().and_then(|tables| tables.rules(instruction, &mut self.context));
        let caller = match rules {
            Some(rules) => Step::new(*frame, stack, rules).caller(mark)?,
            None => frame.caller_without_rules(stack)?,
        };
        self.prove(&caller, mark)?;
        if caller.get(RSP) > Some(mark) { Err(End::Mark) } else { Ok(caller) }
    }

    /// Whether there may be such a caller.
    fn prove(&self, caller: &Frame, mark: u64) -> Result<(), End> {
        let pc = caller.get(PC).ok_or(End::Torn)?;
        if pc == 0 && mark == u64::MAX {
            return Err(End::Start);
        }
        let instruction = caller.instruction().ok_or(End::Torn)?;
        let is_code = self.modules.find(instruction).is_some();
        if is_code && (caller.is_exact || callsite::follows_call(pc)) { Ok(()) } else { Err(End::Torn) }
    }
}

// === impl Frame ===

impl Frame {
    fn get(&self, register: Register) -> Option<u64> {
        self.registers.get(usize::from(register.0))
    }

    fn set(&mut self, register: Register, value: Option<u64>) {
        self.registers.set(usize::from(register.0), value);
    }

    /// The address of the last instruction, or one inside it.
    fn instruction(&self) -> Option<u64> {
        self.get(PC)?.checked_sub(u64::from(!self.is_exact))
    }

    fn call(&self) -> Option<Call> {
        Some(Call { address: self.get(PC)?.wrapping_add(u64::from(self.is_exact)) })
    }

    /// Where the meter's frame is, for the leaf. A leaf above it runs on another stack, where the mark means nothing.
    fn mark(&self, stack: &RawStack) -> u64 {
        if self.get(RSP) <= Some(stack.mark) { stack.mark } else { u64::MAX }
    }

    /// A leaf that no table knows is taken for a few instructions of assembler that leave the stack alone.
    fn caller_without_rules(&self, stack: &RawStack) -> Result<Self, End> {
        let sp = self.get(RSP).filter(|_| self.is_exact).ok_or(End::Torn)?;
        let mut caller = Self { is_exact: false, ..*self };
        caller.set(PC, Some(word(stack, sp)?));
        caller.set(RSP, sp.checked_add(8));
        Ok(caller)
    }
}

/// The eight bytes at an address, or why there are none.
fn word(stack: &RawStack, address: u64) -> Result<u64, End> {
    stack.word(address).ok_or(if is_beyond(stack, address) { End::Full } else { End::Torn })
}

/// Whether an address lies where the copy has ended.
fn is_beyond(stack: &RawStack, address: u64) -> bool {
    address.saturating_add(8) > stack.end()
}

// === impl Step ===

impl<'a> Step<'a> {
    fn new(frame: Frame, stack: &'a RawStack, rules: Rules<'a>) -> Self {
        let mut step = Self { frame, stack, rules };
        if step.frame.get(RBP).is_none() && step.cfa().is_none() {
            step.frame.set(RBP, step.inferred_rbp());
        }
        step
    }

    /// The frame that called this one. Nothing of it is proved yet but that it lies above.
    fn caller(&self, mark: u64) -> Result<Frame, End> {
        if self.rules.register(PC) == RegisterRule::Undefined {
            return Err(End::Start);
        }
        let cfa = self.cfa().filter(|cfa| cfa % 8 == 0).ok_or(End::Torn)?;
        if self.frame.get(RSP) >= Some(cfa) {
            return Err(End::Torn);
        }
        let mut caller = Frame { registers: Registers::default(), is_exact: self.rules.is_signal_frame() };
        caller.set(PC, Some(self.return_address(cfa).map_err(|end| self.end_beyond(end, cfa, mark))?));
        caller.set(RSP, Some(cfa));
        for register in (0..PC.0).map(Register).filter(|&register| register != RSP) {
            caller.set(register, self.restored(register, cfa));
        }
        Ok(caller)
    }

    /// The stack pointer before the call.
    fn cfa(&self) -> Option<u64> {
        match self.rules.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => self.frame.get(*register)?.checked_add_signed(*offset),
            CfaRule::Expression(expression) => self.evaluate(expression, None),
        }
    }

    fn return_address(&self, cfa: u64) -> Result<u64, End> {
        match self.rules.register(PC) {
            RegisterRule::Offset(offset) => word(self.stack, cfa.checked_add_signed(offset).ok_or(End::Torn)?),
            _ => self.restored(PC, cfa).ok_or(End::Torn),
        }
    }

    /// What it means that the return address was not copied. As nothing proves the frame then, it has to be the tables
    /// alone that say where it ends.
    fn end_beyond(&self, end: End, cfa: u64, mark: u64) -> End {
        match end {
            End::Full if !self.is_certain(cfa) => End::Torn,
            End::Full if cfa > mark => End::Mark,
            end => end,
        }
    }

    /// Whether the frame's size is fixed, so that its end follows from the stack pointer.
    fn is_certain(&self, cfa: u64) -> bool {
        match self.rules.cfa() {
            CfaRule::RegisterAndOffset { register: RSP, .. } => true,
            CfaRule::RegisterAndOffset { register: RBP, offset } => {
                self.inferred_rbp().and_then(|rbp| rbp.checked_add_signed(*offset)) == Some(cfa)
            }
            _ => false,
        }
    }

    /// The frame pointer as the function has set it up.
    fn inferred_rbp(&self) -> Option<u64> {
        let height = prologue::frame_pointer_height(self.rules.reckoned_from(RBP)?)?;
        self.frame.get(RSP)?.checked_add(height)
    }

    /// The value of a register in the caller, where it can be told.
    fn restored(&self, register: Register, cfa: u64) -> Option<u64> {
        match self.rules.register(register) {
            RegisterRule::Undefined => self.frame.get(register).filter(|_| KEPT.contains(&register.0)),
            RegisterRule::SameValue => self.frame.get(register),
            RegisterRule::Offset(offset) => self.saved(register, cfa.checked_add_signed(offset)?),
            RegisterRule::ValOffset(offset) => cfa.checked_add_signed(offset),
            RegisterRule::Register(other) => self.frame.get(other),
            RegisterRule::Expression(expression) => self.saved(register, self.evaluate(&expression, Some(cfa))?),
            RegisterRule::ValExpression(expression) => self.evaluate(&expression, Some(cfa)),
            _ => None,
        }
    }

    /// The value that was saved at an address. Below the stack pointer it is saved no more: an epilogue has already
    /// fetched it.
    fn saved(&self, register: Register, address: u64) -> Option<u64> {
        if Some(address) < self.frame.get(RSP) { self.frame.get(register) } else { self.stack.word(address) }
    }

    /// The address that an expression yields, such as those of signal frames and of the linkage table.
    fn evaluate(&self, expression: &UnwindExpression<usize>, cfa: Option<u64>) -> Option<u64> {
        let mut evaluation = self.rules.expression(expression)?.evaluation(self.rules.encoding());
        evaluation.set_max_iterations(MOST_STEPS);
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
                Location::Address { address } => Some(address),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::io::{Read, Write};
    use std::process::{Child, ChildStdout, Command, Stdio};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::mpsc;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use super::super::memory;
    use super::*;
    use crate::os::{self, Tid};
    use crate::stacks::raw;

    const READ: &str = "0";
    const FUTEX: &str = "202";
    const SLEEP: &str = "230";

    const LONG: Duration = Duration::from_millis(1500);

    /// A consistent copy of a stack, and the bytes it was made of.
    struct Capture {
        registers: Registers,
        mark: u64,
        base: u64,
        bytes: Vec<u8>,
    }

    impl Capture {
        /// `None` when the thread is not asleep in the system call, or moved meanwhile.
        fn take(tid: Tid, call: Option<&str>, mark: u64) -> Option<Self> {
            let file = |name| std::fs::read_to_string(format!("/proc/self/task/{}/{name}", tid.0)).ok();
            let told = || file("syscall").zip(file("schedstat"));
            let before = told()?;
            let fields: Vec<_> = before.0.split_whitespace().collect();
            let [number, .., sp, pc] = fields[..] else { return None };
            if call.is_some_and(|call| call != number) {
                return None;
            }
            let hex = |digits: &str| u64::from_str_radix(digits.trim_start_matches("0x"), 16).ok();
            let (sp, pc) = (hex(sp)?, hex(pc)?);
            let (base, len) = RawStack::range(sp, mark);
            let mut bytes = vec![0; len];
            let copied = os::copy_memory(base, &mut bytes);
            bytes.truncate(copied);
            (told()? == before).then_some(Self { registers: Registers::of_sleeping(pc, sp), mark, base, bytes })
        }

        fn stack(&self) -> RawStack {
            let mut stack = RawStack::empty();
            stack.registers = self.registers;
            stack.mark = self.mark;
            stack.fill(self.base, |to| {
                to[..self.bytes.len()].copy_from_slice(&self.bytes);
                self.bytes.len()
            });
            stack
        }

        fn to_start(&self, tid: Tid) -> Self {
            Self::take(tid, None, u64::MAX).unwrap()
        }
    }

    /// Runs a call that blocks on a thread of its own and copies its stack meanwhile.
    fn blocked(call: &str, block: impl FnOnce() + Send + 'static) -> (Tid, Capture) {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || meter(&sender, block));
        let (tid, mark) = receiver.recv().unwrap();
        let asked = Instant::now();
        loop {
            if let Some(capture) = Capture::take(tid, Some(call), mark) {
                return (tid, capture);
            }
            assert!(asked.elapsed() < Duration::from_secs(10), "the thread never slept in {call}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[inline(never)]
    fn meter(sender: &mpsc::Sender<(Tid, u64)>, block: impl FnOnce()) {
        let local = 0_u8;
        let mark = std::ptr::from_ref(black_box(&local)).addr() as u64;
        sender.send((Tid::current(), mark)).unwrap();
        block();
        black_box(&local);
    }

    #[inline(never)]
    fn outer_level(block: impl FnOnce()) {
        let mut room = [0_u8; 6_000];
        black_box(&mut room);
        inner_level(block);
        black_box(&mut room);
    }

    #[inline(never)]
    fn inner_level(block: impl FnOnce()) {
        let words = black_box(vec![1_u64; 10]);
        block();
        black_box(words);
    }

    #[inline(never)]
    fn recursion(depth: u64, block: &dyn Fn()) {
        let mut room = [depth; 8];
        black_box(&mut room);
        match depth {
            0 => block(),
            _ => recursion(depth - 1, block),
        }
        black_box(&mut room);
    }

    /// A pipe: what is written to the child is read from its output.
    fn cat() -> (Child, ChildStdout) {
        let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = cat.stdout.take().unwrap();
        (cat, output)
    }

    fn names(trace: &Trace) -> Vec<String> {
        let mut names = Vec::new();
        for call in &trace.calls {
            backtrace::resolve(call.address as *mut _, |symbol| {
                names.extend(symbol.name().map(|name| name.to_string()));
            });
        }
        names
    }

    fn count(names: &[String], name: &str) -> usize {
        names.iter().filter(|found| found.contains(name)).count()
    }

    #[track_caller]
    fn assert_is_whole(call: &str, levels: &[&str], block: impl FnOnce() + Send + 'static) {
        let (tid, capture) = blocked(call, block);
        let to_start = capture.to_start(tid);
        let mut unwinder = Unwinder::new();

        let trace = unwinder.unwind(&capture.stack());
        let found = names(&trace);
        assert_eq!(trace.end, End::Mark, "{found:#?}");
        for level in levels {
            assert_eq!(count(&found, level), 1, "{level} in {found:#?}");
        }
        let last = Trace { calls: trace.calls[trace.calls.len() - 1..].to_vec(), end: End::Mark };
        assert_eq!(count(&names(&last), "meter"), 1, "{found:#?}");

        let more = unwinder.unwind(&to_start.stack());
        assert_eq!(more.end, End::Start, "{:#?}", names(&more));
        assert!(more.calls.len() > trace.calls.len() && more.calls.starts_with(&trace.calls));
    }

    #[test]
    fn a_sleep_is_walked() {
        assert_is_whole(SLEEP, &["outer_level", "inner_level"], || outer_level(|| std::thread::sleep(LONG)));
    }

    #[test]
    fn a_lock_is_walked() {
        let lock = Arc::new(Mutex::new(0));
        let held = Arc::clone(&lock);
        let guard = held.lock().unwrap();
        assert_is_whole(FUTEX, &["outer_level", "inner_level"], move || {
            outer_level(move || drop(black_box(lock.lock().unwrap())));
        });
        drop(guard);
    }

    #[test]
    fn a_read_is_walked() {
        let (mut cat, mut reader) = cat();
        assert_is_whole(READ, &["outer_level", "inner_level"], move || {
            outer_level(move || assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0));
        });
        drop(cat.stdin.take());
        cat.wait().unwrap();
    }

    #[test]
    fn a_recursion_is_walked() {
        let (_, capture) = blocked(SLEEP, || recursion(20, &|| std::thread::sleep(LONG)));
        let trace = Unwinder::new().unwind(&capture.stack());
        let found = names(&trace);
        assert_eq!(trace.end, End::Mark, "{found:#?}");
        assert!(count(&found, "recursion") >= 21, "{found:#?}");
    }

    #[test]
    fn a_deep_recursion_fills_the_copy() {
        let (_, capture) = blocked(SLEEP, || recursion(5000, &|| std::thread::sleep(LONG)));
        let trace = Unwinder::new().unwind(&capture.stack());
        let found = names(&trace);
        assert_eq!(trace.end, End::Full, "{found:#?}");
        assert!(count(&found, "recursion") > 50, "{found:#?}");
    }

    #[test]
    fn a_call_lies_in_a_module() {
        let (_, capture) = blocked(SLEEP, || std::thread::sleep(LONG));
        let mut unwinder = Unwinder::new();
        assert_eq!(unwinder.module_of(capture.registers.get(Registers::PC).unwrap()), None, "read too early");
        let trace = unwinder.unwind(&capture.stack());
        let module = |call: &Call| unwinder.module_of(call.address).unwrap();
        let (leaf, meter) = (module(trace.calls.first().unwrap()), module(trace.calls.last().unwrap()));
        assert!(leaf.0.to_str().unwrap().contains("libc") && !leaf.1, "{leaf:?}");
        assert_eq!((meter.0, meter.1), (std::env::current_exe().unwrap().as_path(), true));
    }

    /// A test that a word which was overwritten while the copy was made is either noticed or was of no use.
    #[test]
    fn a_torn_copy_is_never_taken_for_another_stack() {
        let (_, mut capture) = blocked(SLEEP, || outer_level(|| std::thread::sleep(LONG)));
        let mut unwinder = Unwinder::new();
        let whole = unwinder.unwind(&capture.stack());
        assert_eq!(whole.end, End::Mark);
        let (sp, code) = (capture.registers.get(Registers::RSP).unwrap(), names as fn(&_) -> _ as usize as u64 + 1);
        let mut noticed = 0;
        for at in (0..capture.bytes.len() / 8).map(|word| word * 8) {
            let old: [u8; 8] = capture.bytes[at..at + 8].try_into().unwrap();
            let near = u64::from_ne_bytes(old);
            for new in
                [0, u64::MAX, sp, sp + 4096, near.wrapping_add(16), near.wrapping_sub(8), near ^ 1, code, code + 3]
            {
                capture.bytes[at..at + 8].copy_from_slice(&new.to_ne_bytes());
                let trace = unwinder.unwind(&capture.stack());
                match trace.end {
                    End::Mark => assert_eq!(trace.calls, whole.calls, "{at} {new:x}"),
                    _ => noticed += 1,
                }
            }
            capture.bytes[at..at + 8].copy_from_slice(&old);
        }
        assert!(noticed > 20, "{noticed}");
    }

    /// A test that a stack pointer that is off is noticed, or by chance meets another frame of the same stack.
    #[test]
    fn a_stack_pointer_that_is_off_leads_to_no_other_stack() {
        let (_, mut capture) = blocked(SLEEP, || outer_level(|| std::thread::sleep(LONG)));
        let sp = capture.registers.get(Registers::RSP).unwrap();
        let mut unwinder = Unwinder::new();
        let whole = unwinder.unwind(&capture.stack());
        let outer = &whole.calls[whole.calls.len() - 3..];
        for off in (-120..=120_i64).filter(|off| *off != 0) {
            capture.registers.set(Registers::RSP, sp.checked_add_signed(off));
            let trace = unwinder.unwind(&capture.stack());
            assert!(
                trace.end != End::Mark || off % 8 == 0 && trace.calls.ends_with(outer),
                "{off} {:#?}",
                names(&trace)
            );
        }
    }

    /// A test with a stack as it is when the handler of a signal that came during a sleep has just returned.
    #[test]
    fn a_signal_frame_is_walked() {
        /// `mov rax, SYS_rt_sigreturn; syscall`
        const TRAMPOLINE: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
        /// What the kernel lays above the trampoline's stack pointer, and where in it three registers are.
        const CONTEXT: u64 = 1024;
        const SAVED: [usize; 3] = [120, 160, 168];

        let (_, capture) = blocked(SLEEP, || outer_level(|| std::thread::sleep(LONG)));
        let mut unwinder = Unwinder::new();
        let whole = unwinder.unwind(&capture.stack());
        let (pc, sp) = (capture.registers.get(Registers::PC).unwrap(), capture.registers.get(Registers::RSP).unwrap());
        let libc = (0..).map(|page| (pc & !0xfff) - page * 4096);
        let in_page = |page| {
            let code = memory::copy(page..page + 4096)?;
            code.windows(TRAMPOLINE.len()).position(|code| code == TRAMPOLINE).map(|at| page + at as u64)
        };
        let trampoline = libc.take(4096).find_map(in_page).unwrap();
        // The sleeper's rbp is not known: one of these.
        let is_walked = (sp..capture.mark).step_by(8).any(|rbp| {
            let mut bytes = vec![0; CONTEXT as usize];
            for (at, value) in SAVED.into_iter().zip([rbp, sp, pc]) {
                bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
            }
            bytes.extend_from_slice(&capture.bytes);
            let base = capture.base - CONTEXT;
            let registers = Registers::of_sleeping(trampoline, base);
            let trace = unwinder.unwind(&Capture { registers, mark: capture.mark, base, bytes }.stack());
            trace.end == End::Mark && trace.calls[1..] == whole.calls
        });
        assert!(is_walked);
    }

    /// A test that it is the same stack however little of it was copied.
    #[test]
    fn a_copy_that_ends_early_is_walked_as_far_as_it_goes() {
        let (_, mut capture) = blocked(SLEEP, || outer_level(|| std::thread::sleep(LONG)));
        let mut unwinder = Unwinder::new();
        let whole = unwinder.unwind(&capture.stack());
        let least = usize::try_from(raw::RED_ZONE + raw::MARGIN).unwrap();
        for len in (least..capture.bytes.len()).step_by(8).rev() {
            capture.bytes.truncate(len);
            for mark in [capture.mark, capture.base + len as u64 - raw::MARGIN] {
                let trace = unwinder.unwind(&Capture { mark, bytes: capture.bytes.clone(), ..capture }.stack());
                assert!(matches!(trace.end, End::Mark | End::Full), "{len} {:?}", trace.end);
                assert!(whole.calls.starts_with(&trace.calls), "{len} {:#?}", names(&trace));
            }
        }
    }

    #[test]
    fn a_leaf_outside_the_marked_stack_never_ends_at_the_mark() {
        let (_, mut capture) = blocked(SLEEP, || std::thread::sleep(LONG));
        capture.mark = capture.registers.get(Registers::RSP).unwrap() - 8;
        assert_ne!(Unwinder::new().unwind(&capture.stack()).end, End::Mark);
    }

    #[test]
    #[ignore = "measures"]
    fn how_long_it_takes() {
        let (_, capture) = blocked(SLEEP, || outer_level(|| std::thread::sleep(LONG)));
        let (mut unwinder, stack) = (Unwinder::new(), capture.stack());
        let mut times = Vec::new();
        for _ in 0..200 {
            let asked = Instant::now();
            let trace = unwinder.unwind(&stack);
            times.push((asked.elapsed(), trace.calls.len()));
        }
        let first = times.remove(0);
        times.sort_unstable();
        println!("first {first:?}, then median {:?}, p90 {:?}", times[times.len() / 2], times[times.len() * 9 / 10]);
    }

    /// Hops between what blocks and what does not, as long as it is told to.
    fn hop(round: &mut u64, reader: &mut impl Read) {
        *round = round.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match (*round >> 40) % 5 {
            0 => std::thread::sleep(Duration::from_micros(20)),
            1 => drop(reader.read(&mut [0; 8])),
            2 => std::thread::yield_now(),
            3 => recursion((*round >> 50) % 12, &|| std::thread::sleep(Duration::from_micros(10))),
            _ => outer_level(|| std::thread::sleep(Duration::from_micros(10))),
        }
    }

    #[test]
    #[ignore = "takes 5 s and measures"]
    fn a_storm_of_captures_is_walked() {
        let is_over = Arc::new(AtomicBool::new(false));
        let (mut cat, mut reader) = cat();
        let mut writer = cat.stdin.take().unwrap();
        let (hopper, feeder) = (Arc::clone(&is_over), Arc::clone(&is_over));
        let (sender, receiver) = mpsc::channel();
        let rounds = Arc::new(AtomicU64::new(0));
        let done = Arc::clone(&rounds);
        let hopping = std::thread::spawn(move || {
            meter(&sender, || {
                let mut round = 1;
                while !hopper.load(Ordering::Relaxed) {
                    hop(&mut round, &mut reader);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        let feeding = std::thread::spawn(move || {
            while !feeder.load(Ordering::Relaxed) {
                let _ = writer.write_all(&[0; 8]);
                std::thread::sleep(Duration::from_micros(50));
            }
        });

        let (tid, mark) = receiver.recv().unwrap();
        let mut unwinder = Unwinder::new();
        let (mut tries, mut ends) = (0_u64, std::collections::HashMap::<String, u64>::new());
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(5) {
            tries += 1;
            let Some(capture) = Capture::take(tid, None, mark) else { continue };
            let trace = unwinder.unwind(&capture.stack());
            *ends.entry(format!("{:?}", trace.end)).or_default() += 1;
            if trace.end != End::Mark && ends.values().sum::<u64>() < 2000 {
                println!("{:?}: {:#?}", trace.end, names(&trace));
            }
        }
        is_over.store(true, Ordering::Relaxed);
        hopping.join().unwrap();
        feeding.join().unwrap();
        cat.wait().unwrap();
        println!("{tries} tries, {} rounds of the thread, {ends:?}", rounds.load(Ordering::Relaxed));
        assert!(ends.get("Mark").is_some_and(|marks| *marks > 100), "{ends:?}");
    }
}
