//! The watchdog's part: captures the stack of one thread. It neither waits for the thread, nor
//! takes a lock, nor allocates.

use std::io;
use std::time::{Duration, Instant};

use super::interrupted_syscall::was_interrupted;
use super::signal::{SampleRequest, SampleStatus, SignalSampler};
use crate::os::{self, BlockedIn, FdTarget, ThreadState};
use crate::shard::PollId;
use crate::stacks::snapshot::{Registers, StackSnapshot};
use crate::stacks::{Capture, CapturePool, CaptureRequest, CaptureResult, TargetThread};

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
    /// Returns `false` if there is no stack so far, and another attempt may succeed.
    pub(crate) fn capture(
        &mut self,
        pool: &CapturePool,
        request: CaptureRequest,
        target: &TargetThread,
        is_running: impl Fn(PollId) -> bool,
    ) -> bool {
        match target.state {
            ThreadState::Blocked(blocked) => {
                copy_blocked(pool, request, target, blocked, is_running)
            }
            ThreadState::Running if self.signal_sampler.is_some() => {
                self.send_signal(pool, request, target) && self.spin(pool, is_running)
            }
            ThreadState::Running => {
                pool.count(CaptureResult::Running);
                false
            }
        }
    }

    /// Collects the stack that a signal has delivered meanwhile. Returns whether there is one.
    pub(crate) fn collect(
        &mut self,
        pool: &CapturePool,
        is_running: impl Fn(PollId) -> bool,
    ) -> bool {
        let Some(mut pending) = self.pending.take() else { return false };
        let result = match pending.sample.poll(&mut pending.stack, |stack, len| {
            pool.grow(stack, len);
        }) {
            // The thread blocked before the signal arrived. The next scan finds out where.
            SampleStatus::Copied if was_interrupted(&pending.stack.registers) => {
                CaptureResult::Torn
            }
            SampleStatus::Copied => {
                pending.push(pool);
                return true;
            }
            SampleStatus::Unreadable => CaptureResult::Torn,
            SampleStatus::Pending => {
                let has_expired =
                    pending.sent_at.elapsed() >= SIGNAL_TIMEOUT || !is_running(pending.request.id);
                if !has_expired || !pending.sample.cancel() {
                    self.pending = Some(pending);
                    return false;
                }
                CaptureResult::Timeout
            }
        };
        pool.count(result);
        pool.recycle(pending.stack);
        false
    }

    /// Returns whether a signal was sent.
    fn send_signal(
        &mut self,
        pool: &CapturePool,
        request: CaptureRequest,
        target: &TargetThread,
    ) -> bool {
        let Some(sampler) = self.signal_sampler.as_ref().filter(|_| self.pending.is_none()) else {
            return false;
        };
        let Some(stack) = pool.take_buffer() else { return false };
        let (sent_at, sent_at_nanos) = (Instant::now(), os::monotonic_nanos());
        match sampler.request(target.tid, request.stack_mark) {
            Some(sample) => {
                self.pending =
                    Some(PendingSample { sample, sent_at, sent_at_nanos, request, stack });
            }
            None => pool.recycle(stack),
        }
        self.pending.is_some()
    }

    /// Gives a thread that is on a CPU the time to respond. A later sample is collected by a later
    /// scan.
    fn spin(&mut self, pool: &CapturePool, is_running: impl Fn(PollId) -> bool) -> bool {
        let started_at = Instant::now();
        while self.pending.is_some() && started_at.elapsed() < SPIN_TIMEOUT {
            if self.collect(pool, &is_running) {
                return true;
            }
            std::hint::spin_loop();
        }
        false
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

/// Copies the stack of a blocked thread, provided that it stays blocked.
fn copy_blocked(
    pool: &CapturePool,
    request: CaptureRequest,
    target: &TargetThread,
    blocked: BlockedIn,
    is_running: impl Fn(PollId) -> bool,
) -> bool {
    let Some(mut stack) = pool.take_buffer() else { return false };
    let (base, length) = StackSnapshot::range(blocked.sp, request.stack_mark);
    let mut copied = copy(&mut stack, base, length);
    if copied == stack.capacity() && pool.grow(&mut stack, length) {
        copied = copy(&mut stack, base, length);
    }
    stack.registers = Registers::of_blocked(blocked.pc, blocked.sp);
    stack.mark = request.stack_mark;
    let takes_fd = blocked.syscall.takes_fd();
    let fd_target = takes_fd.then(|| FdTarget::of(blocked.arg0)).flatten();
    // If the thread has not been on a CPU since it was sampled, the copy is consistent, and is of
    // this poll.
    let is_unchanged = os::sched_stat(target.tid) == Some(target.sched_stat)
        && os::thread_state(target.tid) == Some(target.state);
    if copied == 0 || !is_unchanged || !is_running(request.id) {
        pool.count(CaptureResult::Torn);
        pool.recycle(stack);
        return false;
    }
    let blocked_in = Some(blocked.syscall);
    pool.push(Capture { request, delay: Duration::ZERO, blocked_in, fd_target, stack });
    true
}

/// Copies memory to a snapshot, as much as is readable and fits. Returns the number of bytes.
fn copy(stack: &mut StackSnapshot, base: u64, length: usize) -> usize {
    stack.fill(base, |bytes| {
        let length = length.min(bytes.len());
        os::read_process_memory(base, &mut bytes[..length])
    })
}
