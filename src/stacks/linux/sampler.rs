//! The watchdog's part: captures the stack of one thread. It neither waits for the thread, nor
//! takes a lock, nor allocates.

use std::io;
use std::time::{Duration, Instant};

use super::arch;
use super::interrupted_syscall::{returns_from_syscall, was_interrupted};
use super::refusal;
use super::signal::{SampleRequest, SampleStatus, SignalSampler};
use crate::os::{self, BlockedIn, FdTarget, Syscall, ThreadState};
use crate::shard::PollId;
use crate::stacks::snapshot::StackSnapshot;
use crate::stacks::{
    Capture, CaptureFailure, CapturePool, CaptureRequest, CaptureResult, TargetThread,
};

/// How long the watchdog spins for the response to a signal: a thread on a CPU responds within
/// microseconds.
const SPIN_TIMEOUT: Duration = Duration::from_micros(200);
/// How long a thread may take to respond before the request is cancelled. A thread that is off the
/// CPU cannot respond.
const SIGNAL_TIMEOUT: Duration = Duration::from_millis(100);
/// The same for a thread that is on a CPU, but inside one long system call: it responds when that
/// returns. Until then the kernel keeps the signal, and drops further ones, so that a second request
/// would never be fulfilled.
const KERNEL_TIMEOUT: Duration = Duration::from_secs(30);
/// From this delay on, a thread that was on a CPU has been in the kernel.
const KERNEL_DELAY: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct StackSampler {
    signal_sampler: Option<SignalSampler>,
    pending: Option<PendingSample>,
}

/// A signal without a response so far.
#[derive(Debug)]
struct PendingSample {
    sample: SampleRequest,
    sent_at: Instant,
    /// The same on the clock that the copy is stamped with.
    sent_at_nanos: u64,
    request: CaptureRequest,
    target: TargetThread,
    /// The CPU time of the thread when the signal was sent.
    cpu: Duration,
    stack: Box<StackSnapshot>,
}

// === impl StackSampler ===

impl StackSampler {
    /// With `signals`, running threads are interrupted for a copy.
    pub(crate) fn new(signals: bool) -> io::Result<Self> {
        let signal_sampler = signals.then(SignalSampler::install).transpose()?;
        Ok(Self { signal_sampler, pending: None })
    }

    /// Captures the stack of a thread. `is_running` returns whether a poll is still running.
    /// Returns `None` while the response to a signal is pending. A failure is counted; a stack is
    /// counted once it has been symbolized.
    pub(crate) fn capture(
        &mut self,
        pool: &CapturePool,
        request: CaptureRequest,
        target: &TargetThread,
        is_running: impl Fn(PollId) -> bool,
    ) -> Option<CaptureResult> {
        let result = match target.state {
            ThreadState::Blocked(blocked) => {
                copy_blocked(pool, request, target, blocked, is_running)
            }
            // It is in the kernel, and responds when it returns from there.
            _ if self.awaits(target) => return None,
            state => {
                let sent = self.check_signal(state);
                match sent.and_then(|()| self.send_signal(pool, request, target)) {
                    Ok(()) => return self.spin(pool, is_running).map(|(_, result)| result),
                    failed => failed,
                }
            }
        };
        count_failure(pool, result);
        Some(result)
    }

    /// Returns why a thread could not be sampled.
    pub(crate) fn refusal(&self) -> CaptureFailure {
        refusal::of_state()
    }

    /// Collects the stack that a signal has delivered meanwhile. Returns the poll, and whether there
    /// is a stack; `None` if there is no response so far. A failure is counted.
    pub(crate) fn collect(
        &mut self,
        pool: &CapturePool,
        is_running: impl Fn(PollId) -> bool,
    ) -> Option<(PollId, CaptureResult)> {
        let mut pending = self.pending.take()?;
        let id = pending.request.id;
        let grow = |stack: &mut StackSnapshot, len| {
            pool.grow(stack, len);
        };
        let result = match pending.sample.poll(&mut pending.stack, grow) {
            // The thread blocked before the signal arrived. The next scan finds out where.
            SampleStatus::Copied
                if pending.target.state == ThreadState::Running
                    && was_interrupted(&pending.stack.registers)
                    && !pending.has_run_throughout() =>
            {
                Err(CaptureFailure::Torn)
            }
            SampleStatus::Copied => Ok(()),
            SampleStatus::Unreadable => {
                os::open_own_memory();
                Err(CaptureFailure::Torn)
            }
            SampleStatus::Pending => {
                let is_over = !is_running(id);
                if !(is_over || pending.has_expired()) || !pending.sample.cancel() {
                    self.pending = Some(pending);
                    return None;
                }
                Err(pending.failure(is_over))
            }
        };
        match result {
            Ok(()) => pending.push(pool),
            Err(_) => pool.recycle(pending.stack),
        }
        count_failure(pool, result);
        Some((id, result))
    }

    /// Returns why no signal may be sent to a thread. One that may be blocked is interrupted only if
    /// the kernel never tells where, not if it cannot at the moment.
    fn check_signal(&self, state: ThreadState) -> CaptureResult {
        let has_signals = self.signal_sampler.is_some();
        if state == ThreadState::Running {
            return if has_signals { Ok(()) } else { Err(CaptureFailure::Running) };
        }
        match refusal::of_state() {
            CaptureFailure::Denied if has_signals => Ok(()),
            // It is not refused any more. The next scan sees more.
            CaptureFailure::Ended => Err(CaptureFailure::Torn),
            refusal => Err(refusal),
        }
    }

    /// Returns whether the response of a thread is pending.
    fn awaits(&self, target: &TargetThread) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.target.tid == target.tid)
    }

    /// Sends the signal.
    fn send_signal(
        &mut self,
        pool: &CapturePool,
        request: CaptureRequest,
        target: &TargetThread,
    ) -> CaptureResult {
        self.yield_kernel_sample(pool, target);
        let sampler = self.signal_sampler.as_ref().filter(|_| self.pending.is_none());
        let sampler = sampler.ok_or(CaptureFailure::SignalBusy)?;
        let stack = pool.take_buffer().ok_or(CaptureFailure::NoBuffer)?;
        let (sent_at, sent_at_nanos) = (Instant::now(), os::monotonic_nanos());
        match sampler.request(target.tid, request.stack_mark) {
            Some(sample) => {
                let (target, cpu) = (*target, os::cpu_time(target.tid).unwrap_or_default());
                self.pending = Some(PendingSample {
                    sample,
                    sent_at,
                    sent_at_nanos,
                    request,
                    target,
                    cpu,
                    stack,
                });
                Ok(())
            }
            None => {
                pool.recycle(stack);
                Err(CaptureFailure::SignalBusy)
            }
        }
    }

    /// Cancels the request to a thread that is in the kernel, in favor of another thread.
    fn yield_kernel_sample(&mut self, pool: &CapturePool, target: &TargetThread) {
        let yields = |pending: &mut PendingSample| {
            pending.sent_at.elapsed() >= SIGNAL_TIMEOUT
                && pending.target.tid != target.tid
                && pending.sample.cancel()
        };
        if let Some(pending) = self.pending.take_if(yields) {
            pool.count(Err(CaptureFailure::InKernel));
            pool.recycle(pending.stack);
        }
    }

    /// Gives a thread that is on a CPU the time to respond. A later sample is collected by a later
    /// scan.
    fn spin(
        &mut self,
        pool: &CapturePool,
        is_running: impl Fn(PollId) -> bool,
    ) -> Option<(PollId, CaptureResult)> {
        let started_at = Instant::now();
        while self.pending.is_some() && started_at.elapsed() < SPIN_TIMEOUT {
            let collected = self.collect(pool, &is_running);
            if collected.is_some() {
                return collected;
            }
            std::hint::spin_loop();
        }
        None
    }
}

// === impl PendingSample ===

impl PendingSample {
    /// Returns whether the thread was on a CPU for most of a time that began with the signal.
    fn has_run_for(&self, time: Duration) -> bool {
        os::cpu_time(self.target.tid).is_some_and(|cpu| cpu.saturating_sub(self.cpu) >= time / 2)
    }

    /// Returns whether the thread has never left the CPU since it was found there: it has not
    /// blocked.
    fn has_run_throughout(&self) -> bool {
        os::sched_stat(self.target.tid)
            .is_some_and(|now| now.timeslices == self.target.sched_stat.timeslices)
    }

    fn has_expired(&self) -> bool {
        let elapsed = self.sent_at.elapsed();
        elapsed >= SIGNAL_TIMEOUT && !(elapsed < KERNEL_TIMEOUT && self.has_run_for(elapsed))
    }

    /// Returns why there was no response.
    fn failure(&self, is_over: bool) -> CaptureFailure {
        let elapsed = self.sent_at.elapsed();
        if elapsed >= KERNEL_DELAY && self.has_run_for(elapsed) {
            CaptureFailure::InKernel
        } else if is_over {
            CaptureFailure::Ended
        } else {
            CaptureFailure::Timeout
        }
    }

    fn push(self, pool: &CapturePool) {
        let delay = Duration::from_nanos(self.stack.at.saturating_sub(self.sent_at_nanos));
        let is_late = delay >= KERNEL_DELAY && self.has_run_for(delay);
        let is_interrupted = was_interrupted(&self.stack.registers);
        let is_running = self.target.state == ThreadState::Running || !is_interrupted;
        let in_kernel = is_running
            && returns_from_syscall(&self.stack.registers)
            && (is_late || is_interrupted);
        pool.push(Capture {
            request: self.request,
            delay,
            in_kernel,
            blocked_in: (!is_running).then_some(Syscall::UNKNOWN),
            fd_target: None,
            stack: self.stack,
        });
    }
}

fn count_failure(pool: &CapturePool, result: CaptureResult) {
    if result.is_err() {
        pool.count(result);
    }
}

/// Copies the stack of a blocked thread, provided that it stays blocked.
fn copy_blocked(
    pool: &CapturePool,
    request: CaptureRequest,
    target: &TargetThread,
    blocked: BlockedIn,
    is_running: impl Fn(PollId) -> bool,
) -> CaptureResult {
    let mut stack = pool.take_buffer().ok_or(CaptureFailure::NoBuffer)?;
    let (base, length) = StackSnapshot::range(blocked.sp, request.stack_mark);
    let mut copied = copy(&mut stack, base, length);
    if copied == 0 && os::open_own_memory() {
        copied = copy(&mut stack, base, length);
    }
    if copied == stack.capacity() && pool.grow(&mut stack, length) {
        copied = copy(&mut stack, base, length);
    }
    let refused = (copied == 0).then(refusal::of_copy);
    stack.registers = arch::of_blocked(blocked.pc, blocked.sp);
    stack.mark = request.stack_mark;
    let takes_fd = blocked.syscall.takes_fd();
    let fd_target = takes_fd.then(|| FdTarget::of(blocked.arg0)).flatten();
    match refused.map_or_else(|| unchanged(target, request.id, is_running), Err) {
        Ok(()) => {
            let blocked_in = Some(blocked.syscall);
            let (delay, in_kernel) = (Duration::ZERO, false);
            pool.push(Capture { request, delay, in_kernel, blocked_in, fd_target, stack });
            Ok(())
        }
        failed => {
            pool.recycle(stack);
            failed
        }
    }
}

/// Checks that a thread has not been on a CPU since it was sampled: then the copy is consistent, and
/// is of this poll.
fn unchanged(
    target: &TargetThread,
    id: PollId,
    is_running: impl Fn(PollId) -> bool,
) -> CaptureResult {
    let now = os::sched_stat(target.tid).zip(os::thread_state(target.tid));
    if !is_running(id) {
        Err(CaptureFailure::Ended)
    } else if now == Some((target.sched_stat, target.state)) {
        Ok(())
    } else if now.is_some() {
        Err(CaptureFailure::Torn)
    } else {
        Err(refusal::of_state())
    }
}

/// Copies memory to a snapshot, as much as is readable and fits. Returns the number of bytes.
fn copy(stack: &mut StackSnapshot, base: u64, length: usize) -> usize {
    stack.fill(base, |bytes| {
        let length = length.min(bytes.len());
        os::read_process_memory(base, &mut bytes[..length])
    })
}
