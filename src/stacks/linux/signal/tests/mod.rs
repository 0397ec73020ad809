//! Tests with real signals and threads.

mod forwarding;
mod sampling;
mod storm;

use std::ffi::c_int;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::disposition::{self, Handler};
use super::message::SIGNAL;
use super::*;
use crate::stacks::linux::arch;
use crate::stacks::linux::interrupted_syscall::was_interrupted;
use crate::stacks::snapshot::DEEP_CAPACITY;

/// How long a thread may be off the CPU on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a test waits for a response that must not come.
const NO_RESPONSE: Duration = Duration::from_millis(50);

/// Runs one test at a time: there is one handler in a process.
fn alone() -> MutexGuard<'static, ()> {
    static SERIAL: Mutex<()> = Mutex::new(());
    let guard = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    disposition::reset();
    set_handler(libc::SIG_DFL, 0);
    guard
}

/// Installs a handler of the type that the flags indicate, or SIG_DFL or SIG_IGN.
fn set_handler(handler: usize, flags: c_int) {
    let mut action = disposition::current().unwrap();
    (action.sa_sigaction, action.sa_flags) = (handler, flags);
    // SAFETY: the handlers in these tests have the type that they are installed with, and are
    // async-signal-safe.
    unsafe { disposition::set_action(&action) }.unwrap();
}

/// Replaces the function of the action that is installed, and keeps its flags.
fn replace_handler(handler: Handler) {
    let flags = disposition::current().unwrap().sa_flags;
    set_handler(handler as usize, flags);
}

fn mask(how: c_int) {
    // SAFETY: the set is initialized before it is used.
    unsafe {
        let mut signals = MaybeUninit::uninit();
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), SIGNAL);
        libc::pthread_sigmask(how, signals.as_ptr(), ptr::null_mut());
    }
}

/// A thread to sample.
struct TestThread {
    tid: Tid,
    /// The address of eight words on its stack that identify it.
    words: u64,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TestThread {
    /// Spawns a thread that calls `prepare`, and then `repeat` until it is stopped.
    fn spawn(
        prepare: impl FnOnce() + Send + 'static,
        repeat: impl FnMut() + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel();
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let words = black_box(words(Tid::current()));
                prepare();
                sender.send((Tid::current(), (&raw const words).addr() as u64)).unwrap();
                repeat_until(&stop, repeat);
                black_box(&words);
            }
        });
        let (tid, words) = receiver.recv().unwrap();
        // Time to get from `send` to the loop.
        thread::sleep(Duration::from_millis(5));
        Self { tid, words, stop, thread: Some(thread) }
    }

    fn busy() -> Self {
        Self::spawn(|| (), || ())
    }

    /// Spawns a thread that blocks the signal, which stays pending, until the flag is set.
    fn blocking_the_signal() -> (Self, Arc<AtomicBool>) {
        let unblock = Arc::new(AtomicBool::new(false));
        let is_set = Arc::clone(&unblock);
        let repeat = move || {
            if is_set.load(Ordering::SeqCst) {
                mask(libc::SIG_UNBLOCK);
            }
        };
        (Self::spawn(|| mask(libc::SIG_BLOCK), repeat), unblock)
    }

    fn request(&self, sampler: &SignalSampler) -> Option<SampleRequest> {
        sampler.request(self.tid, self.words)
    }

    /// Retries while the handler is copying for a request that was dropped.
    fn request_soon(&self, sampler: &SignalSampler, mark: u64) -> SampleRequest {
        let start = Instant::now();
        loop {
            if let Some(request) = sampler.request(self.tid, mark) {
                return request;
            }
            assert!(start.elapsed() < TIMEOUT, "the last request was never freed");
        }
    }

    /// Retries now and then: while the signal of a cancelled request is pending, a new one is lost.
    fn sample(&self, sampler: &SignalSampler, stack: &mut StackSnapshot) -> SampleStatus {
        let start = Instant::now();
        loop {
            let mut request = self.request_soon(sampler, self.words);
            let status = wait(&mut request, stack, TIMEOUT / 50);
            if status != SampleStatus::Pending || start.elapsed() > TIMEOUT {
                return status;
            }
        }
    }

    /// Samples the thread until a signal has interrupted a system call.
    fn is_found_blocked(&self, sampler: &SignalSampler) -> bool {
        let (mut stack, start) = (StackSnapshot::with_capacity(DEEP_CAPACITY), Instant::now());
        while start.elapsed() < TIMEOUT {
            assert_eq!(self.sample(sampler, &mut stack), SampleStatus::Copied);
            if was_interrupted(&stack.registers) {
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// Checks that `stack` is this thread's, with the bytes that are there.
    fn check(&self, stack: &StackSnapshot) {
        let sp = stack.registers.get(arch::SP).unwrap();
        assert!(
            sp < self.words && self.words - sp < 16 * 1024,
            "{sp:x} is far from {:x}",
            self.words
        );
        assert_eq!(stack.mark, self.words);
        let copied =
            [0, 1, 2, 3, 4, 5, 6, 7].map(|word| stack.word(self.words + word * 8).unwrap());
        assert_eq!(copied, words(self.tid));
    }
}

impl Drop for TestThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().unwrap().join();
    }
}

fn words(tid: Tid) -> [u64; 8] {
    [0, 1, 2, 3, 4, 5, 6, 7].map(|word: u64| 0xfeed_beef_0000_0000 | word << 24 | tid.0)
}

#[inline(never)]
fn repeat_until(stop: &AtomicBool, mut repeat: impl FnMut()) {
    while !stop.load(Ordering::Relaxed) {
        repeat();
    }
}

fn wait(request: &mut SampleRequest, stack: &mut StackSnapshot, timeout: Duration) -> SampleStatus {
    let start = Instant::now();
    loop {
        let status = request.poll(stack, |_, _| ());
        if status != SampleStatus::Pending || start.elapsed() > timeout {
            return status;
        }
        thread::yield_now();
    }
}

/// Sends what `request` sends, changed.
fn forge(thread: Tid, number: u64, change: impl FnOnce(&mut Message)) {
    let mut message = Message::new(cookie_base(), number);
    change(&mut message);
    assert!(message.send(thread));
}
