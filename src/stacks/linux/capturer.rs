//! The watchdog's part: copies the stack of one thread. It waits for nobody, takes no lock and allocates nothing.

use std::io;
use std::time::{Duration, Instant};

use super::signal::{Answer, Asked, Interrupter, StackBounds};
use super::syscall;
use crate::cells::Subject;
use crate::os::{self, Asleep, Descriptor, Moment};
use crate::stacks::raw::{RawStack, Registers};
use crate::stacks::{Capture, Captures, Outcome, Purpose, Target};

/// How long the answer to a signal is waited for at once: a thread on a core answers within microseconds.
const AT_ONCE: Duration = Duration::from_micros(200);
/// How long a thread may take to answer before it is given up. One that is not on a core cannot answer.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Capturer {
    interrupter: Option<Interrupter>,
    pending: Option<Pending>,
}

/// A signal that is not answered yet.
#[derive(Debug)]
struct Pending {
    asked: Asked,
    since: Instant,
    /// The same on the clock that the copy is stamped with.
    since_nanos: u64,
    purpose: Purpose,
    raw: Box<RawStack>,
}

impl Capturer {
    /// With `signals`, threads that run are interrupted for a copy.
    pub(crate) fn new(signals: bool) -> io::Result<Self> {
        let interrupter = if signals { Some(Interrupter::install()?) } else { None };
        Ok(Self { interrupter, pending: None })
    }

    /// Takes a thread's stack. `goes_on` tells whether a poll has not ended yet. `false`: there is none so far, and it may
    /// be tried again.
    pub(crate) fn capture(
        &mut self,
        captures: &Captures,
        purpose: Purpose,
        target: &Target,
        goes_on: impl Fn(Subject) -> bool,
    ) -> bool {
        match target.moment {
            Moment::Asleep(asleep) => copy_sleeping(captures, purpose, target, asleep, goes_on),
            Moment::Running if self.interrupter.is_some() => {
                self.interrupt(captures, purpose, target) && self.wait_a_moment(captures, goes_on)
            }
            Moment::Running => {
                captures.count(Outcome::Running);
                false
            }
        }
    }

    /// Collects what a signal has brought meanwhile. `true`: a stack.
    pub(crate) fn collect(&mut self, captures: &Captures, goes_on: impl Fn(Subject) -> bool) -> bool {
        let Some(mut pending) = self.pending.take() else { return false };
        let of = pending.purpose.of;
        let outcome = match pending.asked.poll(&mut pending.raw) {
            // It fell asleep before the signal came. That is found at the next look, and where.
            Answer::Copied if syscall::is_broken_off(&pending.raw.registers) => Outcome::Torn,
            Answer::Copied => {
                pending.hand_over(captures);
                return true;
            }
            Answer::OtherStack => Outcome::Torn,
            Answer::NotYet => {
                let is_over = pending.since.elapsed() >= PATIENCE || !goes_on(of);
                if !is_over || !pending.asked.cancel() {
                    self.pending = Some(pending);
                    return false;
                }
                Outcome::Timeout
            }
        };
        captures.count(outcome);
        captures.give_back(pending.raw);
        false
    }

    /// Whether the signal is on its way.
    fn interrupt(&mut self, captures: &Captures, purpose: Purpose, target: &Target) -> bool {
        if self.pending.is_some() {
            return false;
        }
        let Some(raw) = captures.blank() else { return false };
        let since_nanos = os::monotonic_nanos();
        let bounds = StackBounds { low: target.bounds[0], high: target.bounds[1] };
        match self.interrupter.as_ref().and_then(|interrupter| interrupter.ask(target.thread, bounds, purpose.mark)) {
            Some(asked) => self.pending = Some(Pending { asked, since: Instant::now(), since_nanos, purpose, raw }),
            None => captures.give_back(raw),
        }
        self.pending.is_some()
    }

    /// Gives a thread that is on a core the time to answer. What comes later is collected at a later look.
    fn wait_a_moment(&mut self, captures: &Captures, goes_on: impl Fn(Subject) -> bool) -> bool {
        let since = Instant::now();
        while self.pending.is_some() && since.elapsed() < AT_ONCE {
            if self.collect(captures, &goes_on) {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }
}

/// Copies the stack of a thread that is asleep, as long as it stays so.
fn copy_sleeping(
    captures: &Captures,
    purpose: Purpose,
    target: &Target,
    asleep: Asleep,
    goes_on: impl Fn(Subject) -> bool,
) -> bool {
    let Some(mut raw) = captures.blank() else { return false };
    raw.registers = Registers::of_sleeping(asleep.pc, asleep.sp);
    raw.mark = purpose.mark;
    let (base, length) = RawStack::range(asleep.sp, purpose.mark);
    let copied = raw.fill(base, |bytes| os::copy_memory(base, bytes.get_mut(..length).unwrap_or_default()));
    let takes_descriptor = asleep.call.takes_descriptor();
    let descriptor = takes_descriptor.then(|| Descriptor::of(asleep.argument)).flatten();
    // The thread was not on a core since it was seen asleep: what was copied is of one moment, and of this poll.
    let turns = os::turns(target.thread);
    let is_still = turns == Some(target.turns) && os::moment(target.thread) == Some(target.moment);
    if copied == 0 || !is_still || !goes_on(purpose.of) {
        captures.count(Outcome::Torn);
        captures.give_back(raw);
        return false;
    }
    captures.hand_over(Capture { purpose, later: Duration::ZERO, asleep_in: Some(asleep.call), descriptor, raw });
    true
}

impl Pending {
    fn hand_over(self, captures: &Captures) {
        let later = Duration::from_nanos(self.raw.at.saturating_sub(self.since_nanos));
        captures.hand_over(Capture { purpose: self.purpose, later, asleep_in: None, descriptor: None, raw: self.raw });
    }
}
