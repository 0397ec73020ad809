//! The stack of a thread that is running: one signal interrupts it, and the handler copies.
//!
//! The watchdog *asks* a thread: it notes whom it asks and what for, under a number that never comes back, and sends
//! SIGURG to that thread alone, with the number in it. The handler finds the question by its number, copies the
//! interrupted registers and the stack, and says *done*. The watchdog looks in later and takes the copy, or gives up; a
//! signal that comes too late finds its question gone and writes nothing. There is one question at a time in the
//! process.
//!
//! # Why the handler may run anywhere
//!
//! It may interrupt any code at any instruction: inside the allocator, with a lock held, in the middle of a panic. So
//! it uses nothing that such code could have left half done:
//!
//! - It allocates nothing, takes no lock and waits for nothing. It calls `gettid`, `getpid`, and whoever had the signal
//!   before.
//! - What it reads and writes of ours is `static`: atomics, and a buffer that the state `Copying` gives to one handler
//!   alone. Only the compare-and-swap from `Requested` with the right number leads there, so no other handler and no
//!   watchdog is at the buffer at the same time.
//! - It reads the stack only between the bounds that the C library gave for this very thread. That range is mapped as
//!   long as the thread lives, and it cannot end while its handler runs. Where the stack pointer is elsewhere, on
//!   another signal's stack or a coroutine's, no byte is read.
//! - Nothing in it can panic: no arithmetic that can overflow, no index that is not from a constant table, no
//!   formatting.
//! - It has no thread-local variable but `errno`, which it leaves as it was.
//! - It is short on the stack: the buffer is not on it, and it calls two levels deep. That counts, since Rust gives its
//!   threads 8 KiB for signals, of which the kernel's own frame takes 3. For the same reason other signals wait during
//!   the copy.
//!
//! # Whose signal it is
//!
//! SIGURG is ignored by default, so ours does no harm where the handler is gone. Whoever had the signal before is still
//! told of all that is not ours. Who takes it after us may pass our signals on, or not; then no question is answered,
//! and nothing else happens. A child of `fork` inherits the handler, but not the watchdog: nobody asks there.

#![allow(unsafe_code)]

mod disposition;
mod message;
#[cfg(test)]
mod tests;

use std::arch::asm;
use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use self::message::{Message, NUMBER, cookie, number_of};
use crate::os::{self, Tid};
use crate::stacks::raw::{MOST, RawStack, Registers};

const SIGNAL: c_int = libc::SIGURG;

/// Where a thread's stack is. The handler reads what lies in it, so it has to be what `current` gave on the thread that
/// is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StackBounds {
    /// The lowest address that is safe to read.
    pub(super) low: u64,
    /// The first address above.
    pub(super) high: u64,
}

/// The process-wide handler, as long as anyone has one of these.
#[derive(Debug)]
pub(super) struct Interrupter(());

/// A question to a thread. There is at most one in the process.
#[derive(Debug)]
#[must_use = "a question that is dropped is given up"]
pub(super) struct Asked {
    number: u64,
    mark: u64,
}

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    NotYet,
    Copied,
    /// The thread was not on its own stack: there are registers, and no bytes.
    OtherStack,
}

/// The question and its answer.
struct Capture {
    state: AtomicU64,
    thread: AtomicI32,
    low: AtomicU64,
    high: AtomicU64,
    mark: AtomicU64,
    sample: UnsafeCell<Sample>,
}

/// What the handler writes.
struct Sample {
    registers: [u64; DWARF_ORDER.len()],
    /// Whether the stack pointer was inside the bounds.
    is_own_stack: bool,
    /// When it was taken, on the monotonic clock.
    at: u64,
    base: u64,
    len: usize,
    bytes: [u8; MOST],
}

/// `Capture::state`: the number of a question, and how far it is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u64);

#[derive(Clone, Copy)]
enum Phase {
    /// Nobody asks. The number is the last question's.
    Free,
    /// Somebody writes a question down.
    Filling,
    /// The question stands. The handler and who asked may both change that.
    Requested,
    /// The handler has the sample.
    Copying,
    /// Who asked has the sample.
    Done,
    /// As `Copying`, but nobody waits for it.
    Abandoned,
}

/// The general registers as a `ucontext_t` has them.
type General = [libc::greg_t; 23];

/// The general registers as a `ucontext_t` numbers them, in the order of their DWARF numbers.
const DWARF_ORDER: [usize; 17] = [
    libc::REG_RAX as usize,
    libc::REG_RDX as usize,
    libc::REG_RCX as usize,
    libc::REG_RBX as usize,
    libc::REG_RSI as usize,
    libc::REG_RDI as usize,
    libc::REG_RBP as usize,
    libc::REG_RSP as usize,
    libc::REG_R8 as usize,
    libc::REG_R9 as usize,
    libc::REG_R10 as usize,
    libc::REG_R11 as usize,
    libc::REG_R12 as usize,
    libc::REG_R13 as usize,
    libc::REG_R14 as usize,
    libc::REG_R15 as usize,
    libc::REG_RIP as usize,
];

static CAPTURE: Capture = Capture {
    state: AtomicU64::new(State::new(0, Phase::Free).0),
    thread: AtomicI32::new(0),
    low: AtomicU64::new(0),
    high: AtomicU64::new(0),
    mark: AtomicU64::new(0),
    sample: UnsafeCell::new(Sample {
        registers: [0; DWARF_ORDER.len()],
        is_own_stack: false,
        at: 0,
        base: 0,
        len: 0,
        bytes: [0; MOST],
    }),
};

// === impl StackBounds ===

impl StackBounds {
    /// Those of the current thread. Allocates; to be asked once for each thread.
    pub(super) fn current() -> Option<Self> {
        let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
        // SAFETY: `pthread_self` is a thread that lives; the pointer is to memory of the right size.
        if unsafe { libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) } != 0 {
            return None;
        }
        let (mut start, mut size, mut guard) = (ptr::null_mut(), 0, 0);
        // SAFETY: `pthread_getattr_np` has filled the attributes in, and they are destroyed once, after all use.
        let is_known = unsafe {
            let attributes = attributes.as_mut_ptr();
            let is_known = libc::pthread_attr_getstack(attributes, &raw mut start, &raw mut size) == 0
                && libc::pthread_attr_getguardsize(attributes, &raw mut guard) == 0;
            libc::pthread_attr_destroy(attributes);
            is_known
        };
        // Before version 2.27 glibc counted the guard page, which cannot be read, as part of the stack.
        let (start, size, guard) = (start as u64, size as u64, guard as u64);
        is_known.then_some(Self { low: start + guard, high: start + size })
    }
}

// === impl Interrupter ===

impl Interrupter {
    /// Puts the handler in place, if it is not yet. Takes a lock.
    pub(super) fn install() -> io::Result<Self> {
        disposition::take().map(|()| Self(()))
    }

    /// Sends the one signal. `None`: another question is under way, or the thread has ended. `bounds` are that thread's
    /// own. Neither allocates nor locks nor waits.
    ///
    /// A thread that is asleep may be asked, but its system call may then fail with EINTR. While the signal of a
    /// question that was given up is still pending at the thread, a new question to it stays without an answer: the
    /// kernel keeps one of a kind.
    pub(super) fn ask(&self, thread: Tid, bounds: StackBounds, mark: u64) -> Option<Asked> {
        let asked = CAPTURE.request(thread, bounds, mark)?;
        Message::new(cookie(asked.number)).send(thread).then_some(asked)
    }
}

impl Drop for Interrupter {
    fn drop(&mut self) {
        disposition::give_back();
    }
}

// === impl Asked ===

impl Asked {
    /// Looks whether the thread has answered, and takes the answer over. Never waits.
    pub(super) fn poll(&mut self, stack: &mut RawStack) -> Answer {
        // Acquire, the partner of the Release in `Capture::finish`: the copy is whole.
        if CAPTURE.state.load(Ordering::Acquire) != State::new(self.number, Phase::Done).0 {
            return Answer::NotYet;
        }
        // SAFETY: from `Done` on, the sample belongs to who asked, until it says `Free`. The handler's writes happened
        // before.
        let answer = unsafe { &*CAPTURE.sample.get() }.give(stack, self.mark);
        CAPTURE.free(self.number);
        answer
    }

    /// Gives up: a late signal then writes nothing. False while the handler is in the middle of its copy; ask again at
    /// the next look. True also where there is nothing to give up any more.
    pub(super) fn cancel(&mut self) -> bool {
        let number = self.number;
        match CAPTURE.step(number, Phase::Requested, Phase::Free) {
            Ok(()) => true,
            Err(now) if now == State::new(number, Phase::Copying) => false,
            Err(now) if now == State::new(number, Phase::Done) => {
                CAPTURE.free(number);
                true
            }
            Err(_) => true,
        }
    }
}

impl Drop for Asked {
    /// Leaves it to the handler to say `Free` if that is in the middle of its copy.
    fn drop(&mut self) {
        if !self.cancel() && CAPTURE.step(self.number, Phase::Copying, Phase::Abandoned).is_err() {
            // The handler was quicker, and has said `Done`. Nobody but us can change that.
            CAPTURE.free(self.number);
        }
    }
}

// === impl Capture ===

// SAFETY: all but `sample` are atomics. `sample` is written by the one handler that brought the state from `Requested`
// to `Copying`, and read by the owner of the one `Asked` with that number, from `Done` to `Free`. What each did
// happened before what the next does: `Done` is stored with Release and loaded with Acquire, and so are `Free` and
// `Requested`.
unsafe impl Sync for Capture {}

impl Capture {
    /// Notes a question, if there is none.
    fn request(&self, thread: Tid, bounds: StackBounds, mark: u64) -> Option<Asked> {
        let last = State(self.state.load(Ordering::Relaxed));
        let next = last.next_number();
        // Acquire, the partner of the Release in `free`: whoever had the sample before has done with it.
        let took = |free, filling| self.state.compare_exchange(free, filling, Ordering::Acquire, Ordering::Relaxed);
        if !last.is_free() || took(last.0, State::new(next, Phase::Filling).0).is_err() {
            return None;
        }
        self.thread.store(thread.0, Ordering::Relaxed);
        self.low.store(bounds.low, Ordering::Relaxed);
        self.high.store(bounds.high, Ordering::Relaxed);
        self.mark.store(mark, Ordering::Relaxed);
        // Release, the partner of the Acquires in `answer`: the handler finds the four above.
        self.state.store(State::new(next, Phase::Requested).0, Ordering::Release);
        Some(Asked { number: next, mark })
    }

    /// Answers the question with that number, if it still stands and the current thread is meant. Called by the
    /// handler.
    fn answer(&self, number: u64, interrupted: &General) {
        // Acquire, the partner of the Release in `request`. Should the question change between the first two lines,
        // then its number does too, and the third fails.
        let is_open = self.state.load(Ordering::Acquire) == State::new(number, Phase::Requested).0;
        let is_for_us = Tid(self.thread.load(Ordering::Relaxed)) == Tid::current();
        if !is_open || !is_for_us || self.step(number, Phase::Requested, Phase::Copying).is_err() {
            return;
        }
        let bounds = StackBounds { low: self.low.load(Ordering::Relaxed), high: self.high.load(Ordering::Relaxed) };
        // SAFETY: the step to `Copying` succeeds for one handler, which has the sample to itself until it says `Done`.
        let sample = unsafe { &mut *self.sample.get() };
        // SAFETY: the bounds are the stack of the current thread, as the signal was sent to it with its own bounds.
        unsafe { sample.take(interrupted, bounds, self.mark.load(Ordering::Relaxed)) };
        self.finish(number);
    }

    /// The handler's last word.
    fn finish(&self, number: u64) {
        // Release in `step`, the partner of the Acquire in `Asked::poll`.
        if self.step(number, Phase::Copying, Phase::Done).is_err() {
            // Abandoned: nobody waits for the copy.
            self.free(number);
        }
    }

    /// From one state of a question to the next. Whoever comes second learns what came first.
    fn step(&self, number: u64, from: Phase, to: Phase) -> Result<(), State> {
        let (from, to) = (State::new(number, from).0, State::new(number, to).0);
        // Acquire for `Copying`, whose partner is in `request`, and for a `Done` that was quicker; Release for `Done`
        // and `Free`.
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).map(drop).map_err(State)
    }

    /// Says that nobody has to do with the sample any more. Only who owns it may call this.
    fn free(&self, number: u64) {
        // Release, the partner of the Acquire in `request`.
        self.state.store(State::new(number, Phase::Free).0, Ordering::Release);
    }
}

// === impl Sample ===

impl Sample {
    /// Copies the registers, and the part of the stack that is worth it.
    ///
    /// # Safety
    ///
    /// Memory between the bounds, from the interrupted stack pointer's page up, must be readable.
    unsafe fn take(&mut self, interrupted: &General, bounds: StackBounds, mark: u64) {
        for (register, place) in self.registers.iter_mut().zip(DWARF_ORDER) {
            *register = interrupted[place] as u64;
        }
        self.at = os::monotonic_nanos();
        let sp = interrupted[libc::REG_RSP as usize] as u64;
        self.is_own_stack = bounds.low <= sp && sp < bounds.high;
        if !self.is_own_stack {
            (self.base, self.len) = (sp, 0);
            return;
        }
        let (base, len) = RawStack::range(sp, mark);
        let end = base.saturating_add(len as u64).min(bounds.high);
        self.base = base.max(bounds.low);
        self.len = (end.saturating_sub(self.base) as usize).min(MOST);
        // SAFETY: the range is clipped to the bounds, and `len` to the buffer, which no reference is to but `self`.
        unsafe { copy_bytes(self.base, self.bytes.as_mut_ptr(), self.len) };
    }

    fn give(&self, stack: &mut RawStack, mark: u64) -> Answer {
        stack.registers = Registers::default();
        for (number, value) in self.registers.iter().enumerate() {
            stack.registers.set(number, Some(*value));
        }
        stack.mark = mark;
        stack.at = self.at;
        stack.fill(self.base, |bytes| {
            bytes[..self.len].copy_from_slice(&self.bytes[..self.len]);
            self.len
        });
        if self.is_own_stack { Answer::Copied } else { Answer::OtherStack }
    }
}

/// Copies bytes that belong to code that was interrupted. Not by Rust's own means, which may assume that what they read
/// is initialised and not borrowed, and which sanitizers watch.
///
/// # Safety
///
/// `len` bytes must be readable at `from` and writable at `to`.
unsafe fn copy_bytes(from: u64, to: *mut u8, len: usize) {
    // SAFETY: reads and writes what the caller allows, uses no stack. The direction flag is clear, as everywhere in
    // Rust.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

// === impl State ===

impl State {
    const PHASE_BITS: u32 = 3;

    const fn new(number: u64, phase: Phase) -> Self {
        Self(number << Self::PHASE_BITS | phase as u64)
    }

    fn is_free(self) -> bool {
        self == Self::new(self.number(), Phase::Free)
    }

    fn number(self) -> u64 {
        self.0 >> Self::PHASE_BITS
    }

    /// Comes back after a trillion questions.
    fn next_number(self) -> u64 {
        self.number().wrapping_add(1) & NUMBER
    }
}

/// The registers that the kernel put aside. Only a place in it, as the kernel's `ucontext_t` is shorter than the C
/// library's.
fn registers(context: *mut c_void) -> *const General {
    if context.is_null() {
        return ptr::null();
    }
    context.wrapping_byte_add(offset_of!(libc::ucontext_t, uc_mcontext.gregs)).cast_const().cast()
}

/// The handler. See the head of this file for why it may run anywhere.
extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the C library's own place for the current thread's errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: that place is there as long as the thread.
    let before = unsafe { *errno };
    // SAFETY: the kernel gives a pointer to either, or somebody that passes on what the kernel gave. Null is looked
    // for.
    let (about, interrupted) = unsafe { (info.as_ref(), registers(context).as_ref()) };
    match (about.and_then(number_of), interrupted) {
        (Some(number), Some(interrupted)) => CAPTURE.answer(number, interrupted),
        _ => disposition::pass_on(signal, info, context),
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}
