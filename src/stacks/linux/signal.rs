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

use std::arch::asm;
use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{self, MaybeUninit, offset_of};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// Who had the signal before: where its function is, and whether it wants more than the signal's number. Kept in one
/// word, since the handler reads it at any time.
#[derive(Clone, Copy)]
struct Previous(usize);

/// Whether our handler is in place. Never touched by the handler.
struct Installed {
    users: usize,
    /// What ours replaced, until that is put back.
    replaced: Option<libc::sigaction>,
}

/// A signal's `siginfo_t` as the kernel reads it, with a value.
#[repr(C, align(8))]
struct Message {
    signal: c_int,
    errno: c_int,
    code: c_int,
    pad: c_int,
    pid: i32,
    uid: u32,
    value: u64,
    rest: [u8; 96],
}

/// The general registers as a `ucontext_t` has them.
type General = [libc::greg_t; 23];

type Plain = extern "C" fn(c_int);
type WithInfo = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// The bits of a question's number: all of it that fits into a signal beside the mark that it is ours.
const NUMBER: u64 = (1 << 40) - 1;

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

/// Stays as it was when our handler is gone: one that is still running, or that somebody else calls, needs it.
static PREVIOUS: AtomicUsize = AtomicUsize::new(Previous::NONE.0);

static INSTALLED: Mutex<Installed> = Mutex::new(Installed { users: 0, replaced: None });

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
        let mut installed = Installed::lock();
        installed.place()?;
        installed.users += 1;
        Ok(Self(()))
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
        let mut installed = Installed::lock();
        installed.users = installed.users.saturating_sub(1);
        if installed.users == 0 {
            installed.remove();
        }
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

// === impl Previous ===

impl Previous {
    const NONE: Self = Self(libc::SIG_DFL << 1);

    fn of(action: &libc::sigaction) -> Self {
        // An address in user space does not need its highest bit.
        Self(action.sa_sigaction << 1 | usize::from(action.sa_flags & libc::SA_SIGINFO != 0))
    }

    fn publish(self) {
        // Release, the partner of the Acquire in `on_signal`, although no other memory belongs to it.
        PREVIOUS.store(self.0, Ordering::Release);
    }

    /// Does what the kernel would do if ours had not been put in its place. The default is to do nothing, as with
    /// SIG_IGN.
    fn call(self, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        let address = self.0 >> 1;
        if !is_function(address) {
            return;
        }
        let function = address as *const ();
        if self.0 & 1 == 0 {
            // SAFETY: `sigaction` gave the address as that of a function that takes a signal's number.
            let function = unsafe { mem::transmute::<*const (), Plain>(function) };
            function(signal);
        } else {
            // SAFETY: `sigaction` gave the address as that of a function that takes all three, which are what the
            // kernel gave us.
            let function = unsafe { mem::transmute::<*const (), WithInfo>(function) };
            function(signal, info, context);
        }
    }
}

// === impl Installed ===

impl Installed {
    fn lock() -> MutexGuard<'static, Self> {
        INSTALLED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&mut self) -> io::Result<()> {
        let current = disposition()?;
        // Who took the signal after us may pass it on to us. On top of that one ours would be called in a circle.
        let may_be_below = self.replaced.is_some() && is_function(current.sa_sigaction);
        if is_ours(&current) || may_be_below {
            return Ok(());
        }
        // Once before the handler can run, and once more in case that somebody else was quicker.
        Previous::of(&current).publish();
        let replaced = Some(dispose(&ours(&current))?).filter(|replaced| !is_ours(replaced)).unwrap_or(current);
        Previous::of(&replaced).publish();
        self.replaced = Some(replaced);
        Ok(())
    }

    /// Puts back what ours replaced, unless somebody has replaced ours.
    fn remove(&mut self) {
        if !disposition().is_ok_and(|current| is_ours(&current)) {
            return;
        }
        if let Some(replaced) = self.replaced.take() {
            // Cannot fail: it was in place before.
            let _ = dispose(&replaced);
        }
    }
}

/// What to put in the place of `current`.
fn ours(current: &libc::sigaction) -> libc::sigaction {
    let mut ours = *current;
    ours.sa_sigaction = on_signal as WithInfo as usize;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    // Who had the signal before finds blocked what it wants blocked.
    if !is_function(current.sa_sigaction) {
        ours.sa_mask = asynchronous();
    }
    ours
}

/// All signals but those that a fault raises, which would then end the process without a word.
fn asynchronous() -> libc::sigset_t {
    let mut signals = MaybeUninit::uninit();
    // SAFETY: the pointer is to memory of the right size, and `sigfillset` fills it in before it is used.
    unsafe {
        libc::sigfillset(signals.as_mut_ptr());
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS] {
            libc::sigdelset(signals.as_mut_ptr(), fault);
        }
        signals.assume_init()
    }
}

fn is_ours(action: &libc::sigaction) -> bool {
    action.sa_sigaction == on_signal as WithInfo as usize
}

fn is_function(handler: libc::sighandler_t) -> bool {
    handler != libc::SIG_DFL && handler != libc::SIG_IGN
}

fn disposition() -> io::Result<libc::sigaction> {
    sigaction(ptr::null())
}

/// Returns what was there before.
fn dispose(action: &libc::sigaction) -> io::Result<libc::sigaction> {
    sigaction(action)
}

fn sigaction(action: *const libc::sigaction) -> io::Result<libc::sigaction> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: `action` is null or came from a reference; what it names is our handler or came from the kernel.
    if unsafe { libc::sigaction(SIGNAL, action, before.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a call that returned 0 has written all of it.
    Ok(unsafe { before.assume_init() })
}

// === impl Message ===

const _: () = assert!(size_of::<Message>() == size_of::<libc::siginfo_t>() && offset_of!(Message, value) == 24);

impl Message {
    fn new(value: u64) -> Self {
        // SAFETY: neither call has an argument, or can fail.
        let (pid, uid) = unsafe { (libc::getpid(), libc::getuid()) };
        Self { signal: SIGNAL, errno: 0, code: libc::SI_QUEUE, pad: 0, pid, uid, value, rest: [0; 96] }
    }

    /// To one thread of this process. False if there is none with that number.
    fn send(&self, thread: Tid) -> bool {
        // SAFETY: the kernel reads a `siginfo_t`, which `self` is in size, alignment and content.
        unsafe {
            libc::syscall(libc::SYS_rt_tgsigqueueinfo, libc::getpid(), thread.0, SIGNAL, ptr::from_ref(self)) == 0
        }
    }
}

/// The number of a question, as a signal carries it. The rest of the word is taken from where our statics are: another
/// copy of this crate in the process, which is a handler before or after ours, has its own elsewhere.
fn cookie(number: u64) -> u64 {
    let place = (&raw const CAPTURE).addr() as u64 / size_of::<Capture>() as u64;
    place << NUMBER.count_ones() | number
}

/// The number of the question that a signal is about. `None` where the signal is not ours.
fn number_of(info: &libc::siginfo_t) -> Option<u64> {
    if info.si_code != libc::SI_QUEUE {
        return None;
    }
    // SAFETY: a queued signal has all of these fields. `getpid` has no argument and cannot fail.
    let (value, is_from_here) = unsafe { (info.si_value().sival_ptr as u64, info.si_pid() == libc::getpid()) };
    let number = value & NUMBER;
    (is_from_here && value == cookie(number)).then_some(number)
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
        // Acquire: see `Previous::publish`.
        _ => Previous(PREVIOUS.load(Ordering::Acquire)).call(signal, info, context),
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

#[cfg(test)]
mod tests;
