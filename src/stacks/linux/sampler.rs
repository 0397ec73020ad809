//! The watchdog's part: captures the stack of one thread. It neither waits for the thread, nor
//! takes a lock, nor allocates.

use std::io;
use std::time::{Duration, Instant};

use super::interrupted_syscall::was_interrupted;
use super::refusal;
use super::signal::{SampleRequest, SampleStatus, SignalSampler};
use crate::os::{self, BlockedIn, FdTarget, ThreadState};
use crate::shard::PollId;
use crate::stacks::snapshot::{Registers, StackSnapshot};
use crate::stacks::{
    Capture, CaptureFailure, CapturePool, CaptureRequest, CaptureResult, TargetThread,
};

/// How long the watchdog spins for the response to a signal: a thread on a CPU responds within
/// microseconds.
const SPIN_TIMEOUT: Duration = Duration::from_micros(200);
/// How long a thread may take to respond before the request is cancelled. A thread that is off the
/// CPU cannot respond.
const SIGNAL_TIMEOUT: Duration = Duration::from_millis(100);

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
            ThreadState::Running if self.signal_sampler.is_some() => {
                match self.send_signal(pool, request, target) {
                    Ok(()) => return self.spin(pool, is_running).map(|(_, result)| result),
                    failed => failed,
                }
            }
            ThreadState::Running => Err(CaptureFailure::Running),
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
            SampleStatus::Copied if was_interrupted(&pending.stack.registers) => {
                Err(CaptureFailure::Torn)
            }
            SampleStatus::Copied => Ok(()),
            SampleStatus::Unreadable => Err(CaptureFailure::Torn),
            SampleStatus::Pending => {
                let is_over = !is_running(id);
                let has_expired = is_over || pending.sent_at.elapsed() >= SIGNAL_TIMEOUT;
                if !has_expired || !pending.sample.cancel() {
                    self.pending = Some(pending);
                    return None;
                }
                Err(if is_over { CaptureFailure::Ended } else { CaptureFailure::Timeout })
            }
        };
        match result {
            Ok(()) => pending.push(pool),
            Err(_) => pool.recycle(pending.stack),
        }
        count_failure(pool, result);
        Some((id, result))
    }

    /// Sends the signal.
    fn send_signal(
        &mut self,
        pool: &CapturePool,
        request: CaptureRequest,
        target: &TargetThread,
    ) -> CaptureResult {
        let sampler = self.signal_sampler.as_ref().filter(|_| self.pending.is_none());
        let sampler = sampler.ok_or(CaptureFailure::SignalBusy)?;
        let stack = pool.take_buffer().ok_or(CaptureFailure::NoBuffer)?;
        let (sent_at, sent_at_nanos) = (Instant::now(), os::monotonic_nanos());
        match sampler.request(target.tid, request.stack_mark) {
            Some(sample) => {
                self.pending =
                    Some(PendingSample { sample, sent_at, sent_at_nanos, request, stack });
                Ok(())
            }
            None => {
                pool.recycle(stack);
                Err(CaptureFailure::SignalBusy)
            }
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
    fn push(self, pool: &CapturePool) {
        let delay = Duration::from_nanos(self.stack.at.saturating_sub(self.sent_at_nanos));
        pool.push(Capture {
            request: self.request,
            delay,
            blocked_in: None,
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
    if copied == stack.capacity() && pool.grow(&mut stack, length) {
        copied = copy(&mut stack, base, length);
    }
    let refused = (copied == 0).then(refusal::of_copy);
    stack.registers = Registers::of_blocked(blocked.pc, blocked.sp);
    stack.mark = request.stack_mark;
    let takes_fd = blocked.syscall.takes_fd();
    let fd_target = takes_fd.then(|| FdTarget::of(blocked.arg0)).flatten();
    match refused.map_or_else(|| unchanged(target, request.id, is_running), Err) {
        Ok(()) => {
            let blocked_in = Some(blocked.syscall);
            pool.push(Capture { request, delay: Duration::ZERO, blocked_in, fd_target, stack });
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
