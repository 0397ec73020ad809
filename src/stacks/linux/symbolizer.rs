//! The reporter's part: unwinds a copied stack, and symbolizes its frames.

use super::paths::set_std_root;
use super::program::Program;
use super::symbol::Symbol;
use super::symbols::Symbols;
use super::unwind::{CallSite, StopReason, Unwinder};
use super::{missing, thread_role, trim};
use crate::stacks::{Capture, CaptureFailure, SymbolizedStack};

/// The number of calls that are symbolized. A deeper stack is a recursion, whose innermost and
/// outermost calls count.
const MAX_CALLS: usize = 2_048;

pub(crate) struct Symbolizer {
    unwinder: Unwinder,
    symbols: Symbols,
}

impl Symbolizer {
    /// Creates a symbolizer that does not read debug information which needs more than `max_memory`
    /// bytes.
    pub(crate) fn new(max_memory: u64) -> Self {
        Self { unwinder: Unwinder::new(), symbols: Symbols::new(max_memory) }
    }

    /// Returns the path of a source file of the standard library, as its line tables state it.
    fn file_in_std(&mut self) -> Option<String> {
        let function: fn(std::time::Duration) = std::thread::sleep;
        let address = function as usize as u64 + 1;
        let module = self.unwinder.module_of(address);
        self.symbols.resolve(address, module).last()?.file.clone()
    }

    fn resolve(&mut self, call: CallSite) -> &[Symbol] {
        let module = self.unwinder.module_of(call.address);
        self.symbols.resolve(call.address, module)
    }

    /// Returns why not if the copy makes no sense.
    pub(crate) fn symbolize(
        &mut self,
        capture: &Capture,
    ) -> Result<SymbolizedStack, CaptureFailure> {
        let trace = self.unwinder.unwind(&capture.stack);
        if trace.end == StopReason::Inconsistent {
            return Err(CaptureFailure::Inconsistent);
        }
        let calls = &trace.call_sites;
        let inner = &calls[..calls.len().min(MAX_CALLS / 2)];
        let outer = &calls[inner.len().max(calls.len().saturating_sub(MAX_CALLS / 2))..];
        let mut symbols = Vec::new();
        for (index, call) in inner.iter().chain(outer).enumerate() {
            let mut calls = self.resolve(*call).to_vec();
            for other in trace.alternatives.iter().filter(|_| index == 1) {
                keep_common(&mut calls, self.resolve(*other));
            }
            symbols.append(&mut calls);
        }
        set_std_root(|| self.file_in_std());
        let mut frames = trim::trim(&symbols);
        let omitted = calls.len() - inner.len() - outer.len();
        trim::shorten(&mut frames, omitted, trace.end);
        let program = self.symbols.program();
        let failure = program.and_then(Program::failure);
        if frames.iter().any(|frame| frame.address.is_some()) {
            trim::note_build_id(&mut frames, program.and_then(Program::build_id));
        }
        Ok(SymbolizedStack {
            role: thread_role::role(&symbols, &trace),
            missing: missing::missing(&symbols, &frames, trace.end, failure),
            frames,
        })
    }
}

/// Keeps what two calls in a function have in common. The innermost function that has made both is
/// kept without its line.
fn keep_common(calls: &mut Vec<Symbol>, others: &[Symbol]) {
    let (outwards, others) = (calls.iter().rev(), others.iter().rev());
    let mut same =
        outwards.clone().zip(others.clone()).take_while(|(one, other)| one == other).count();
    let next = outwards.skip(same).zip(others.skip(same)).next();
    let differs_in_line =
        next.is_some_and(|(one, other)| one.function == other.function && one.file == other.file);
    if differs_in_line {
        same += 1;
    }
    calls.drain(..calls.len() - same);
    if let Some(innermost) = calls.first_mut().filter(|_| differs_in_line) {
        innermost.line = None;
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::os::{self, ThreadState, Tid};
    use crate::shard::PollId;
    use crate::stacks::linux::StackSampler;
    use crate::stacks::linux::test_symbols::{application, std};
    use crate::stacks::{CapturePool, CaptureRequest, TargetThread, ThreadRole};

    /// Returns the resident memory of the process, in KiB.
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[inline(never)]
    fn deep_handler(wait: &mpsc::Receiver<()>) {
        let mut room = [0_u8; 300 * 1024];
        std::hint::black_box(&mut room);
        wait.recv().unwrap_err();
        std::hint::black_box(&mut room);
    }

    /// Captures the stack of a thread that is blocked.
    fn capture_blocked(tid: Tid, stack_mark: u64) -> Capture {
        let (pool, mut sampler) = (CapturePool::new(true, 1), StackSampler::new(false).unwrap());
        let request = CaptureRequest { id: PollId { shard: 0, start: 0 }, age: 0, stack_mark };
        loop {
            let sched_stat = os::sched_stat(tid).unwrap();
            let state = os::thread_state(tid).unwrap();
            let target = TargetThread { tid, state, sched_stat };
            let is_waiting = matches!(
                state,
                ThreadState::Blocked(blocked) if blocked.syscall.name() == Some("futex")
            );
            if is_waiting && sampler.capture(&pool, request, &target, |_| true) == Some(Ok(())) {
                return pool.next().unwrap();
            }
            thread::yield_now();
        }
    }

    #[test]
    fn a_deep_stack_is_captured_as_far_as_it_is_needed() {
        let (sender, receiver) = mpsc::channel();
        let (hold, wait) = mpsc::channel();
        let blocked = thread::spawn(move || {
            let local = 0_u8;
            let mark = std::ptr::from_ref(std::hint::black_box(&local)).addr() as u64;
            sender.send((Tid::current(), mark)).unwrap();
            deep_handler(&wait);
        });
        let (tid, mark) = receiver.recv().unwrap();
        let mut symbolizer = Symbolizer::new(u64::MAX);
        let of_poll = symbolizer.symbolize(&capture_blocked(tid, mark)).unwrap();
        let whole = symbolizer.symbolize(&capture_blocked(tid, u64::MAX)).unwrap();
        assert_eq!(of_poll.role, ThreadRole::Worker, "{of_poll:#?}");
        assert_eq!(whole.role, ThreadRole::OffWorker, "{whole:#?}");
        drop(hold);
        blocked.join().unwrap();
    }

    #[test]
    fn of_calls_that_may_be_either_what_differs_is_left_out() {
        let (wait, wake) = (std("wait", "std/src/futex.rs"), std("wake", "std/src/futex.rs"));
        let handler = |line| application("handler", line);
        let common = |calls: &[Symbol], others: &[Symbol]| {
            let mut calls = calls.to_vec();
            keep_common(&mut calls, others);
            calls
        };
        let one = [wait.clone(), handler(3)];
        assert_eq!(common(&one, &one), one);
        assert_eq!(common(&one, &[wake, handler(3)]), [handler(3)]);
        let without_line = Symbol { line: None, ..handler(3) };
        for others in [vec![wait, handler(4)], vec![handler(4)]] {
            assert_eq!(common(&one, &others), std::slice::from_ref(&without_line));
        }
        assert!(common(&one, &[]).is_empty());
    }

    #[test]
    #[ignore = "a measurement"]
    #[allow(clippy::print_stdout)]
    fn measure_the_cost_of_a_stack() {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let local = 0_u8;
            let mark = std::ptr::from_ref(std::hint::black_box(&local)).addr() as u64;
            sender.send((Tid::current(), mark)).unwrap();
            thread::sleep(Duration::from_secs(3_600));
        });
        let (tid, stack_mark) = receiver.recv().unwrap();
        thread::sleep(Duration::from_millis(20));
        let (pool, mut sampler) = (CapturePool::new(true, 1), StackSampler::new(false).unwrap());
        let request = CaptureRequest { id: PollId { shard: 0, start: 0 }, age: 0, stack_mark };
        let resident_before = resident();
        let mut symbolizer = Symbolizer::new(u64::MAX);
        for round in ["first", "second", "third", "later", "later"] {
            let cpu_time = os::cpu_time(tid).unwrap();
            let start = Instant::now();
            let sched_stat = os::sched_stat(tid).unwrap();
            let state = os::thread_state(tid).unwrap();
            let sampling = start.elapsed();
            assert_ne!(state, ThreadState::Running);
            let target = TargetThread { tid, state, sched_stat };
            let start = Instant::now();
            assert_eq!(sampler.capture(&pool, request, &target, |_| true), Some(Ok(())));
            let copying = start.elapsed();
            let capture = pool.next().unwrap();
            let start = Instant::now();
            let calls = Unwinder::new().unwind(&capture.stack).call_sites.len();
            let unwinding = start.elapsed();
            let start = Instant::now();
            let frames = symbolizer.symbolize(&capture).unwrap().frames.len();
            let symbolizing = start.elapsed();
            pool.recycle(capture.stack);
            println!(
                "{round}: sampling {sampling:?}, copying {copying:?}, unwinding {calls} calls \
                 without cached modules {unwinding:?}, unwinding and symbolizing {frames} frames \
                 {symbolizing:?}; {} KiB more than before; CPU time of the thread {:?}",
                resident() - resident_before,
                os::cpu_time(tid).unwrap() - cpu_time,
            );
        }
    }
}
