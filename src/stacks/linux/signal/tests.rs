use std::hint::black_box;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::disposition::{INSTALLED, WithInfo, dispose, is_function, is_ours};
use super::*;
use crate::stacks::linux::syscall;

/// A signal's handler is the whole process's: one test at a time.
static SERIAL: Mutex<()> = Mutex::new(());

/// How long a thread may be without a core on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer that shall not come is waited for.
const LONG_ENOUGH: Duration = Duration::from_millis(50);

fn alone() -> MutexGuard<'static, ()> {
    let guard = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    INSTALLED.lock().unwrap_or_else(PoisonError::into_inner).replaced = None;
    CAPTURE.state.store(State::new(CAPTURE.number() + 1, Phase::Free).0, Ordering::SeqCst);
    set(libc::SIG_DFL, 0);
    guard
}

impl Capture {
    fn number(&self) -> u64 {
        State(self.state.load(Ordering::SeqCst)).number()
    }
}

fn set(handler: usize, flags: c_int) {
    let mut action = disposition::current().unwrap();
    (action.sa_sigaction, action.sa_flags) = (handler, flags);
    dispose(&action).unwrap();
}

fn mask(how: c_int) {
    // SAFETY: the set is filled in before it is used.
    unsafe {
        let mut signals = MaybeUninit::uninit();
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), SIGNAL);
        libc::pthread_sigmask(how, signals.as_ptr(), ptr::null_mut());
    }
}

fn set_errno(errno: c_int) {
    // SAFETY: the current thread's own.
    unsafe { *libc::__errno_location() = errno };
}

fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap()
}

/// A thread to ask.
struct Target {
    tid: Tid,
    bounds: StackBounds,
    /// Where eight words lie that tell this thread from all others.
    words: u64,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Target {
    /// A thread that does `prepare`, and then `again` until it is told to stop.
    fn spawn(prepare: impl FnOnce() + Send + 'static, again: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, telling) = std::sync::mpsc::channel();
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let words = black_box(words(Tid::current()));
                prepare();
                let bounds = StackBounds::current().unwrap();
                told.send((Tid::current(), bounds, (&raw const words).addr() as u64)).unwrap();
                until(&stop, again);
                black_box(&words);
            }
        });
        let (tid, bounds, words) = telling.recv().unwrap();
        // Out of `send`, into the loop.
        thread::sleep(Duration::from_millis(5));
        Self { tid, bounds, words, stop, thread: Some(thread) }
    }

    fn busy() -> Self {
        Self::spawn(|| (), || ())
    }

    /// One that blocks the signal until the second value is set, and so has it pending.
    fn deaf() -> (Self, Arc<AtomicBool>) {
        let open = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&open);
        let again = move || {
            if seen.load(Ordering::SeqCst) {
                mask(libc::SIG_UNBLOCK);
            }
        };
        (Self::spawn(|| mask(libc::SIG_BLOCK), again), open)
    }

    fn ask(&self, interrupter: &Interrupter) -> Option<Asked> {
        interrupter.ask(self.tid, self.bounds, self.words)
    }

    /// As the handler may be in the middle of a question that was dropped.
    fn ask_soon(&self, interrupter: &Interrupter, mark: u64) -> Asked {
        let start = Instant::now();
        loop {
            if let Some(asked) = interrupter.ask(self.tid, self.bounds, mark) {
                return asked;
            }
            assert!(start.elapsed() < PATIENCE, "the last question is still there");
        }
    }

    /// Asks again now and then: while a signal of a question that was given up is pending, a new one is lost.
    fn capture(&self, interrupter: &Interrupter, stack: &mut RawStack) -> Answer {
        let start = Instant::now();
        loop {
            let mut asked = self.ask_soon(interrupter, self.words);
            let answer = wait(&mut asked, stack, PATIENCE / 50);
            if answer != Answer::NotYet || start.elapsed() > PATIENCE {
                return answer;
            }
        }
    }

    /// Asks until the thread has gone to sleep before the signal came.
    fn is_found_asleep(&self, interrupter: &Interrupter) -> bool {
        let (mut stack, start) = (RawStack::empty(), Instant::now());
        while start.elapsed() < PATIENCE {
            assert_eq!(self.capture(interrupter, &mut stack), Answer::Copied);
            if syscall::is_broken_off(&stack.registers) {
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// That `stack` is this thread's, with the bytes that are there.
    fn check(&self, stack: &RawStack) {
        let sp = stack.registers.get(Registers::RSP).unwrap();
        assert!(self.bounds.low <= sp && sp < self.bounds.high, "{sp:x} is not in {:x?}", self.bounds);
        assert!(sp < self.words && self.words - sp < 16 * 1024, "{sp:x} is far from {:x}", self.words);
        assert_eq!(stack.mark, self.words);
        let copied = [0, 1, 2, 3, 4, 5, 6, 7].map(|word| stack.word(self.words + word * 8).unwrap());
        assert_eq!(copied, words(self.tid));
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().unwrap().join();
    }
}

fn words(tid: Tid) -> [u64; 8] {
    [0, 1, 2, 3, 4, 5, 6, 7].map(|word: u64| 0xfeed_beef_0000_0000 | word << 24 | tid.0 as u64)
}

#[inline(never)]
fn until(stop: &AtomicBool, mut again: impl FnMut()) {
    while !stop.load(Ordering::Relaxed) {
        again();
    }
}

fn wait(asked: &mut Asked, stack: &mut RawStack, patience: Duration) -> Answer {
    let start = Instant::now();
    loop {
        let answer = asked.poll(stack);
        if answer != Answer::NotYet || start.elapsed() > patience {
            return answer;
        }
        thread::yield_now();
    }
}

fn is_code_of_this_executable(address: u64) -> bool {
    let executable = std::env::current_exe().unwrap();
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().any(|line| {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|number| u64::from_str_radix(number, 16).unwrap());
        rest.starts_with("r-x") && rest.ends_with(executable.to_str().unwrap()) && start <= address && address < end
    })
}

/// Sends what `ask` would send, changed.
fn forge(thread: Tid, number: u64, change: impl FnOnce(&mut Message)) {
    let mut message = Message::new(cookie(number));
    change(&mut message);
    assert!(message.send(thread));
}

#[test]
fn a_busy_thread_is_copied() {
    let _alone = alone();
    let (interrupter, target) = (Interrupter::install().unwrap(), Target::busy());
    let mut stack = RawStack::empty();
    for _ in 0..100 {
        assert_eq!(target.capture(&interrupter, &mut stack), Answer::Copied);
        target.check(&stack);
        assert!(is_code_of_this_executable(stack.registers.get(Registers::PC).unwrap()));
        assert!(stack.end() <= target.bounds.high);
        assert!(!syscall::is_broken_off(&stack.registers));
    }
}

/// Each register by a value of its own, in a thread that does nothing else.
#[test]
fn registers_have_their_dwarf_numbers() {
    let _alone = alone();
    let interrupter = Interrupter::install().unwrap();
    let target = Target::spawn(
        || (),
        // SAFETY: puts back what it changes and does not name, and touches no memory but the stack.
        || unsafe {
            asm!(
                "push rbx", "push rbp",
                "mov rbx, 103", "mov rbp, 106",
                "2:", "dec rcx", "jne 2b",
                "pop rbp", "pop rbx",
                inout("rcx") 200_000_000_u64 => _,
                in("rax") 100_u64, in("rdx") 101_u64, in("rsi") 104_u64, in("rdi") 105_u64,
                in("r8") 108_u64, in("r9") 109_u64, in("r10") 110_u64, in("r11") 111_u64,
                in("r12") 112_u64, in("r13") 113_u64, in("r14") 114_u64, in("r15") 115_u64,
            );
        },
    );
    let mut stack = RawStack::empty();
    assert_eq!(target.capture(&interrupter, &mut stack), Answer::Copied);
    target.check(&stack);
    for number in [0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15] {
        assert_eq!(stack.registers.get(number), Some(100 + number as u64), "register {number}");
    }
    assert!((1..=200_000_000).contains(&stack.registers.get(2).unwrap()));
}

#[test]
fn the_whole_stack_is_copied_up_to_its_end() {
    let _alone = alone();
    let (interrupter, target) = (Interrupter::install().unwrap(), Target::busy());
    let mut stack = RawStack::empty();
    let mut asked = interrupter.ask(target.tid, target.bounds, u64::MAX).unwrap();
    assert_eq!(wait(&mut asked, &mut stack, PATIENCE), Answer::Copied);
    assert_eq!(stack.end(), target.bounds.high);
}

#[test]
fn bounds_are_around_a_local_variable() {
    let local = 0_u8;
    let bounds = StackBounds::current().unwrap();
    let address = (&raw const local).addr() as u64;
    assert!(bounds.low <= address && address < bounds.high);
}

#[test]
fn a_stack_that_is_not_the_threads_own_is_not_read() {
    let _alone = alone();
    let (interrupter, target) = (Interrupter::install().unwrap(), Target::busy());
    let mut stack = RawStack::empty();
    assert_eq!(target.capture(&interrupter, &mut stack), Answer::Copied);
    let bounds = StackBounds { low: 8, high: 4096 };
    let mut asked = interrupter.ask(target.tid, bounds, target.words).unwrap();
    assert_eq!(wait(&mut asked, &mut stack, PATIENCE), Answer::OtherStack);
    assert_eq!(stack.word(target.words), None, "bytes of before");
    assert!(is_code_of_this_executable(stack.registers.get(Registers::PC).unwrap()));
}

#[test]
fn what_is_below_the_stack_or_beyond_the_meter_is_left_out() {
    let _alone = alone();
    let (interrupter, target) = (Interrupter::install().unwrap(), Target::busy());
    let mut stack = RawStack::empty();
    assert_eq!(target.capture(&interrupter, &mut stack), Answer::Copied);
    let sp = stack.registers.get(Registers::RSP).unwrap();
    // Half of the red zone.
    let bounds = StackBounds { low: sp - 64, high: target.words + 8 };
    loop {
        let mut asked = interrupter.ask(target.tid, bounds, target.words).unwrap();
        let answer = wait(&mut asked, &mut stack, PATIENCE);
        if answer == Answer::Copied && stack.registers.get(Registers::RSP) == Some(sp) {
            break;
        }
    }
    assert!(stack.word(bounds.low).is_some());
    assert_eq!(stack.word(bounds.low - 1), None);
    assert_eq!(stack.end(), target.words + 8);
}

#[test]
fn a_thread_that_blocks_the_signal_does_not_answer() {
    let _alone = alone();
    let interrupter = Interrupter::install().unwrap();
    let ((target, open), other) = (Target::deaf(), Target::busy());
    let mut stack = RawStack::empty();
    let mut asked = target.ask(&interrupter).unwrap();
    assert_eq!(wait(&mut asked, &mut stack, LONG_ENOUGH), Answer::NotYet);
    assert!(other.ask(&interrupter).is_none(), "two at a time");
    assert!(asked.cancel());
    let mut next = other.ask(&interrupter).unwrap();
    open.store(true, Ordering::SeqCst);
    thread::sleep(LONG_ENOUGH);
    assert_eq!(asked.poll(&mut stack), Answer::NotYet);
    assert!(asked.cancel());
    drop(asked);
    assert_eq!(wait(&mut next, &mut stack, PATIENCE), Answer::Copied, "it was the other's, and no longer is");
    other.check(&stack);
    assert_eq!(target.capture(&interrupter, &mut stack), Answer::Copied);
    target.check(&stack);
}

/// The kernel keeps one signal of a kind pending, which is the first: the second question is lost.
#[test]
fn a_late_signal_answers_no_later_question() {
    let _alone = alone();
    let interrupter = Interrupter::install().unwrap();
    let (target, open) = Target::deaf();
    let mut stack = RawStack::empty();
    assert!(target.ask(&interrupter).unwrap().cancel());
    let mut asked = target.ask(&interrupter).unwrap();
    open.store(true, Ordering::SeqCst);
    assert_eq!(wait(&mut asked, &mut stack, LONG_ENOUGH), Answer::NotYet);
    assert!(asked.cancel());
    assert_eq!(target.capture(&interrupter, &mut stack), Answer::Copied);
}

#[test]
fn no_thread_answers_for_another() {
    let _alone = alone();
    let interrupter = Interrupter::install().unwrap();
    let (target, open) = Target::deaf();
    let mut stack = RawStack::empty();
    let mut asked = target.ask(&interrupter).unwrap();
    forge(Tid::current(), asked.number, |_| ());
    assert_eq!(asked.poll(&mut stack), Answer::NotYet);
    open.store(true, Ordering::SeqCst);
    assert_eq!(wait(&mut asked, &mut stack, PATIENCE), Answer::Copied);
    target.check(&stack);
}

#[test]
fn a_thread_that_has_ended_is_not_asked() {
    let _alone = alone();
    let interrupter = Interrupter::install().unwrap();
    let target = Target::busy();
    let (tid, bounds) = (target.tid, target.bounds);
    drop(target);
    // `join` returns before the kernel has forgotten the thread.
    let start = Instant::now();
    while interrupter.ask(tid, bounds, 0).is_some() {
        assert!(start.elapsed() < PATIENCE);
    }
    assert!(Target::busy().ask(&interrupter).is_some(), "the question that failed is still there");
}

#[test]
fn a_question_that_is_dropped_is_given_up() {
    let _alone = alone();
    let interrupter = Interrupter::install().unwrap();
    let (target, _) = Target::deaf();
    drop(target.ask(&interrupter).unwrap());
    drop(target.ask(&interrupter).unwrap());
    assert!(target.ask(&interrupter).unwrap().cancel());
}

#[test]
fn a_question_in_the_middle_of_its_copy_is_left_to_the_handler() {
    let _alone = alone();
    let interrupter = Interrupter::install().unwrap();
    let (target, _) = Target::deaf();
    let mut asked = target.ask(&interrupter).unwrap();
    let number = asked.number;
    assert!(CAPTURE.step(number, Phase::Requested, Phase::Copying).is_ok());
    assert!(!asked.cancel());
    assert_eq!(asked.poll(&mut RawStack::empty()), Answer::NotYet);
    drop(asked);
    assert!(target.ask(&interrupter).is_none());
    CAPTURE.finish(number);
    let asked = target.ask(&interrupter).unwrap();
    assert!(CAPTURE.step(asked.number, Phase::Requested, Phase::Copying).is_ok());
    CAPTURE.finish(asked.number);
    drop(asked);
    assert!(target.ask(&interrupter).is_some());
}

/// The handler and `cancel` in a race: one of both wins, and afterwards nobody is left in possession.
#[test]
fn who_cancels_and_who_answers_agree() {
    let _alone = alone();
    let (interrupter, target) = (Interrupter::install().unwrap(), Target::busy());
    let mut stack = RawStack::empty();
    let start = Instant::now();
    for patience in (0..400).cycle().take_while(|_| start.elapsed() < Duration::from_secs(1)) {
        let mut asked = target.ask_soon(&interrupter, target.words);
        (0..patience).for_each(|_| std::hint::spin_loop());
        while !asked.cancel() {
            if asked.poll(&mut stack) == Answer::Copied {
                target.check(&stack);
            }
        }
        let mut asked = target.ask_soon(&interrupter, target.words);
        if wait(&mut asked, &mut stack, Duration::from_micros(300)) == Answer::Copied {
            target.check(&stack);
        }
    }
    assert_eq!(target.capture(&interrupter, &mut stack), Answer::Copied);
    target.check(&stack);
}

/// The same without signals, which is faster: a thread that answers all the time, at length.
#[test]
fn a_question_that_is_cancelled_is_out_of_the_handlers_hands() {
    let _alone = alone();
    let mut registers = General::default();
    let answer = move || {
        if registers[libc::REG_RSP as usize] == 0 {
            registers[libc::REG_RSP as usize] = StackBounds::current().unwrap().low as i64 + 1024;
        }
        CAPTURE.answer(CAPTURE.number(), &registers);
    };
    let target = Target::spawn(|| (), answer);
    let mut last = CAPTURE.number();
    let start = Instant::now();
    for patience in (0..50).cycle().take_while(|_| start.elapsed() < Duration::from_millis(500)) {
        let mut asked = CAPTURE.request(target.tid, target.bounds, u64::MAX).unwrap();
        assert_eq!(asked.number, last + 1, "somebody has changed the state who should not");
        (0..patience).for_each(|_| std::hint::spin_loop());
        while !asked.cancel() {}
        last = asked.number;
    }
}

#[test]
fn one_of_two_that_ask_at_once_is_refused() {
    let _alone = alone();
    let asking = || {
        let start = Instant::now();
        let mut numbers = Vec::new();
        while start.elapsed() < Duration::from_millis(300) {
            numbers.extend(CAPTURE.request(Tid(0), StackBounds { low: 0, high: 0 }, 0).map(|asked| asked.number));
        }
        numbers
    };
    let mut numbers = thread::scope(|scope| {
        let both = [scope.spawn(asking), scope.spawn(asking)];
        both.map(|one| one.join().unwrap()).concat()
    });
    let questions = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), questions, "two had the same question");
}

#[test]
fn two_monitors_never_ask_at_a_time() {
    let _alone = alone();
    let monitor = || {
        let (interrupter, target) = (Interrupter::install().unwrap(), Target::busy());
        let (mut stack, mut numbers, start) = (RawStack::empty(), Vec::new(), Instant::now());
        let mut copied = 0;
        while copied < 100 && start.elapsed() < PATIENCE {
            let Some(mut asked) = target.ask(&interrupter) else { continue };
            numbers.push(asked.number);
            assert!(target.ask(&interrupter).is_none());
            if wait(&mut asked, &mut stack, Duration::from_millis(100)) == Answer::Copied {
                target.check(&stack);
                copied += 1;
            }
        }
        assert!(copied > 0);
        numbers
    };
    let mut numbers = thread::scope(|scope| {
        let monitors = [scope.spawn(monitor), scope.spawn(monitor)];
        monitors.map(|monitor| monitor.join().unwrap()).concat()
    });
    let questions = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), questions, "two had the same question");
}

#[test]
fn a_read_goes_on_after_the_signal() {
    let _alone = alone();
    let interrupter = Interrupter::install().unwrap();
    let (reader, writer) = io::pipe().unwrap();
    let (told, result) = std::sync::mpsc::channel();
    let target = Target::spawn(
        || (),
        move || {
            let mut byte = 0_u8;
            // SAFETY: one byte is read to where one byte is.
            let read = unsafe { libc::read(reader.as_raw_fd(), (&raw mut byte).cast(), 1) };
            let _ = told.send((read, byte));
        },
    );
    // Closed before the thread is waited for.
    let mut writer = writer;
    let mut stack = RawStack::empty();
    for byte in [7, 8] {
        for _ in 0..5 {
            assert_eq!(target.capture(&interrupter, &mut stack), Answer::Copied);
            target.check(&stack);
        }
        assert!(target.is_found_asleep(&interrupter));
        writer.write_all(&[byte]).unwrap();
        assert_eq!(result.recv_timeout(PATIENCE), Ok((1, byte)));
    }
}

/// The kernel does not take up a sleep for as long as was asked, but returns how much is left.
#[test]
fn a_sleep_is_broken_off_by_the_signal() {
    let _alone = alone();
    let interrupter = Interrupter::install().unwrap();
    assert!(Target::spawn(|| (), || thread::sleep(LONG_ENOUGH)).is_found_asleep(&interrupter));
}

static SURROUNDINGS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn looks_around(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let (mut stack, mut blocked) = (MaybeUninit::<libc::stack_t>::uninit(), MaybeUninit::uninit());
    // SAFETY: both are filled in before they are used.
    let found = unsafe {
        libc::sigaltstack(ptr::null(), stack.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), blocked.as_mut_ptr());
        let is_blocked = |signal| libc::sigismember(blocked.as_ptr(), signal) == 1;
        [stack.assume_init().ss_flags == libc::SS_ONSTACK, is_blocked(libc::SIGPROF), !is_blocked(libc::SIGSEGV)]
    };
    SURROUNDINGS.store(found.into_iter().filter(|as_wanted| *as_wanted).count(), Ordering::SeqCst);
    on_signal(signal, info, context);
}

#[test]
fn the_handler_has_the_signal_stack_to_itself() {
    let _alone = alone();
    let (interrupter, target) = (Interrupter::install().unwrap(), Target::busy());
    let mut as_ours = disposition::current().unwrap();
    as_ours.sa_sigaction = looks_around as WithInfo as usize;
    dispose(&as_ours).unwrap();
    assert_eq!(target.capture(&interrupter, &mut RawStack::empty()), Answer::Copied);
    assert_eq!(SURROUNDINGS.load(Ordering::SeqCst), 3);
    set(libc::SIG_DFL, 0);
}

static CALLS: AtomicUsize = AtomicUsize::new(0);
static LAST_INFO: AtomicUsize = AtomicUsize::new(0);

extern "C" fn plain(signal: c_int) {
    assert_eq!(signal, SIGNAL);
    CALLS.fetch_add(1, Ordering::SeqCst);
    set_errno(libc::EIO);
}

extern "C" fn with_info(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    assert!(!context.is_null());
    // SAFETY: the kernel gave the pointer, and what this test sends has a value.
    LAST_INFO.store(unsafe { (*info).si_value() }.sival_ptr.addr(), Ordering::SeqCst);
    plain(signal);
}

/// Ours is on the list of who is called after it.
extern "C" fn on_top(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    CALLS.fetch_add(100, Ordering::SeqCst);
    on_signal(signal, info, context);
}

fn calls_of(f: impl FnOnce()) -> usize {
    let before = CALLS.load(Ordering::SeqCst);
    f();
    CALLS.load(Ordering::SeqCst) - before
}

fn raise() {
    // SAFETY: there is a handler, or the signal is ignored.
    assert_eq!(unsafe { libc::raise(SIGNAL) }, 0);
}

#[test]
fn who_had_the_signal_before_is_told_of_what_is_not_ours() {
    let _alone = alone();
    let ways = [(plain as extern "C" fn(c_int) as usize, 0), (with_info as WithInfo as usize, libc::SA_SIGINFO)];
    for (handler, flags) in ways {
        set(handler, flags);
        let (first, second) = (Interrupter::install().unwrap(), Interrupter::install().unwrap());
        assert!(is_ours(&disposition::current().unwrap()));
        assert_eq!(calls_of(raise), 1);

        let target = Target::busy();
        let mut stack = RawStack::empty();
        assert_eq!(calls_of(|| assert_eq!(target.capture(&first, &mut stack), Answer::Copied)), 0);
        drop(first);
        assert_eq!(calls_of(|| assert_eq!(target.capture(&second, &mut stack), Answer::Copied)), 0);
        drop(second);

        let back = disposition::current().unwrap();
        assert_eq!((back.sa_sigaction, back.sa_flags & libc::SA_SIGINFO), (handler, flags));
        assert_eq!(calls_of(raise), 1);
    }
}

#[test]
fn a_signal_that_only_resembles_ours_is_not() {
    let _alone = alone();
    set(with_info as WithInfo as usize, libc::SA_SIGINFO);
    let interrupter = Interrupter::install().unwrap();
    let (target, _) = Target::deaf();
    let mut asked = target.ask(&interrupter).unwrap();
    let number = asked.number;
    let told_of = |change: fn(&mut Message)| calls_of(|| forge(Tid::current(), number, change));
    assert_eq!(told_of(|_| ()), 0);
    assert_eq!(told_of(|message| message.value = 5), 1);
    assert_eq!(LAST_INFO.load(Ordering::SeqCst), 5);
    assert_eq!(told_of(|message| message.value ^= 1 << 63), 1);
    assert_eq!(told_of(|message| message.pid += 1), 1);
    assert_eq!(told_of(|message| message.code = libc::SI_MESGQ), 1);
    assert!(asked.cancel());
}

#[test]
fn errno_stays_as_it_was() {
    let _alone = alone();
    set(plain as extern "C" fn(c_int) as usize, 0);
    let _interrupter = Interrupter::install().unwrap();
    set_errno(libc::EXDEV);
    raise();
    assert_eq!(errno(), libc::EXDEV);
}

#[test]
fn default_and_ignored_come_back() {
    let _alone = alone();
    for handler in [libc::SIG_DFL, libc::SIG_IGN] {
        set(handler, 0);
        let interrupter = Interrupter::install().unwrap();
        raise();
        drop(interrupter);
        assert_eq!(disposition::current().unwrap().sa_sigaction, handler);
    }
}

#[test]
fn who_took_the_signal_after_us_keeps_it() {
    let _alone = alone();
    set(plain as extern "C" fn(c_int) as usize, 0);
    let theirs = on_top as WithInfo as usize;
    let interrupter = Interrupter::install().unwrap();
    set(theirs, libc::SA_SIGINFO);
    let target = Target::busy();
    let mut stack = RawStack::empty();
    assert_eq!(calls_of(|| assert_eq!(target.capture(&interrupter, &mut stack), Answer::Copied)), 100);
    drop(interrupter);
    assert_eq!(disposition::current().unwrap().sa_sigaction, theirs);
    assert_eq!(calls_of(raise), 101, "ours still passes on");

    // They pass it on to us, so ours on top of that would be a circle.
    let interrupter = Interrupter::install().unwrap();
    assert_eq!(disposition::current().unwrap().sa_sigaction, theirs);
    assert_eq!(calls_of(raise), 101);
    assert_eq!(calls_of(|| assert_eq!(target.capture(&interrupter, &mut stack), Answer::Copied)), 100);
    drop(interrupter);

    // They are gone, and ours with them.
    set(libc::SIG_DFL, 0);
    let interrupter = Interrupter::install().unwrap();
    assert!(is_ours(&disposition::current().unwrap()));
    assert_eq!(calls_of(raise), 0);
    assert_eq!(target.capture(&interrupter, &mut stack), Answer::Copied);
    drop(interrupter);
    assert_eq!(disposition::current().unwrap().sa_sigaction, libc::SIG_DFL);
}

#[test]
fn another_handler_may_be_there_the_next_time() {
    let _alone = alone();
    for handler in [plain as extern "C" fn(c_int) as usize, libc::SIG_IGN, plain as extern "C" fn(c_int) as usize] {
        set(handler, 0);
        let interrupter = Interrupter::install().unwrap();
        assert_eq!(calls_of(raise), usize::from(is_function(handler)));
        drop(interrupter);
        assert_eq!(disposition::current().unwrap().sa_sigaction, handler);
    }
}

/// Without a handler that passes it on, there is no answer, and no harm.
#[test]
fn who_took_the_signal_and_keeps_it_to_himself_leaves_us_without_answers() {
    let _alone = alone();
    let (interrupter, target) = (Interrupter::install().unwrap(), Target::busy());
    set(plain as extern "C" fn(c_int) as usize, libc::SA_RESTART);
    let mut stack = RawStack::empty();
    let mut asked = target.ask(&interrupter).unwrap();
    assert_eq!(wait(&mut asked, &mut stack, LONG_ENOUGH), Answer::NotYet);
    assert!(asked.cancel());
    set(libc::SIG_DFL, 0);
    let mut asked = target.ask(&interrupter).unwrap();
    assert_eq!(wait(&mut asked, &mut stack, LONG_ENOUGH), Answer::NotYet);
}

/// How long the handler took, in ticks of the time stamp counter.
static LATENCIES: [AtomicU64; 4096] = [const { AtomicU64::new(0) }; 4096];
static RUNS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn timed(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let start = ticks();
    on_signal(signal, info, context);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    LATENCIES[run % LATENCIES.len()].store(ticks() - start, Ordering::Relaxed);
}

fn ticks() -> u64 {
    // SAFETY: no memory, no arguments.
    unsafe { std::arch::x86_64::_rdtsc() }
}

fn figures(name: &str, mut values: Vec<u64>, unit: f64) {
    values.sort_unstable();
    let at = |part: f64| values[((values.len() - 1) as f64 * part) as usize] as f64 * unit;
    println!("{name}: p50 {:.2} p99 {:.2} max {:.2} us of {}", at(0.5), at(0.99), at(1.0), values.len());
}

fn panics() {
    let _ = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(vec![7; 100])));
}

fn allocates() {
    drop(black_box(vec![0_u8; 5000]));
}

fn formats() {
    drop(black_box(format!("{:?}", Instant::now())));
}

fn sleeps() {
    thread::sleep(Duration::from_micros(50));
}

/// Asks one after the other, as fast as they answer.
fn storm_on(name: &str, targets: &[Target], interrupter: &Interrupter, time: Duration) {
    let mut stack = RawStack::empty();
    let (mut given_up, mut round_trips) = (0, Vec::new());
    RUNS.store(0, Ordering::Relaxed);
    let (start, start_ticks) = (Instant::now(), ticks());
    for target in targets.iter().cycle().take_while(|_| start.elapsed() < time) {
        let asking = Instant::now();
        // Every second time up to the end of the stack.
        let mark = if round_trips.len() % 2 == 0 { target.words } else { u64::MAX };
        let mut asked = target.ask_soon(interrupter, mark);
        match wait(&mut asked, &mut stack, Duration::from_millis(100)) {
            Answer::Copied => {
                round_trips.push(asking.elapsed().as_nanos() as u64);
                stack.mark = target.words;
                target.check(&stack);
            }
            Answer::NotYet => given_up += 1,
            Answer::OtherStack => panic!("no thread here has another stack"),
        }
    }
    let tick = start.elapsed().as_secs_f64() * 1e6 / (ticks() - start_ticks) as f64;
    println!("{name}: given up {given_up}");
    figures("  round trip", round_trips, 1e-3);
    let runs = RUNS.load(Ordering::Relaxed).min(LATENCIES.len());
    figures("  handler", LATENCIES[..runs].iter().map(|run| run.load(Ordering::Relaxed)).collect(), tick);
}

#[test]
#[ignore = "five seconds at full load"]
fn storm() {
    let _alone = alone();
    let interrupter = Interrupter::install().unwrap();
    let mut with_timer = disposition::current().unwrap();
    with_timer.sa_sigaction = timed as WithInfo as usize;
    dispose(&with_timer).unwrap();
    let several = [panics, allocates, formats, sleeps].map(|again| Target::spawn(|| (), again));
    storm_on("four threads", &several, &interrupter, Duration::from_secs(2));
    drop(several);
    // Without `sleeps`: each signal makes the kernel add its slack of 50 us to a sleep, so that would never end.
    let all = || [panics, allocates, formats].iter().for_each(|again| again());
    let one = [Target::spawn(|| (), all)];
    storm_on("one thread", &one, &interrupter, Duration::from_secs(2));
    storm_on("a busy thread", &[Target::busy()], &interrupter, Duration::from_secs(1));
    set(libc::SIG_DFL, 0);
}
