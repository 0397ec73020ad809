use std::ffi::c_void;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::stacks::linux::signal::disposition::{is_function, is_handler};

type SimpleHandler = extern "C" fn(c_int);

fn set_errno(errno: c_int) {
    // SAFETY: the pointer is to a variable of the current thread.
    unsafe { *libc::__errno_location() = errno };
}

fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap()
}

static CONDITIONS_MET: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn checks_its_context(
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    let (mut stack, mut blocked) = (MaybeUninit::<libc::stack_t>::uninit(), MaybeUninit::uninit());
    // SAFETY: both are initialized before they are used.
    let conditions = unsafe {
        libc::sigaltstack(ptr::null(), stack.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), blocked.as_mut_ptr());
        let is_blocked = |signal| libc::sigismember(blocked.as_ptr(), signal) == 1;
        [
            stack.assume_init().ss_flags == libc::SS_ONSTACK,
            is_blocked(libc::SIGPROF),
            !is_blocked(libc::SIGSEGV),
        ]
    };
    CONDITIONS_MET.store(conditions.into_iter().filter(|is_met| *is_met).count(), Ordering::SeqCst);
    // SAFETY: the arguments come from the kernel.
    unsafe { on_signal(signal, info, context) };
}

#[test]
fn the_handler_runs_on_the_signal_stack_with_signals_blocked() {
    let _alone = alone();
    let (sampler, target) = (SignalSampler::install().unwrap(), TestThread::busy());
    replace_handler(checks_its_context);
    assert_eq!(
        target.sample(&sampler, &mut StackSnapshot::with_capacity(DEEP_CAPACITY)),
        SampleStatus::Copied
    );
    assert_eq!(CONDITIONS_MET.load(Ordering::SeqCst), 3);
    set_handler(libc::SIG_DFL, 0);
}

static CALLS: AtomicUsize = AtomicUsize::new(0);
static LAST_INFO: AtomicUsize = AtomicUsize::new(0);

extern "C" fn simple(signal: c_int) {
    assert_eq!(signal, SIGNAL);
    CALLS.fetch_add(1, Ordering::SeqCst);
    set_errno(libc::EIO);
}

unsafe extern "C" fn with_info(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    assert!(!context.is_null());
    // SAFETY: the pointer comes from the kernel, and the signals of these tests have a value.
    LAST_INFO.store(unsafe { (*info).si_value() }.sival_ptr.addr(), Ordering::SeqCst);
    simple(signal);
}

/// A handler that was installed after ours and forwards to it.
unsafe extern "C" fn on_top(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    CALLS.fetch_add(100, Ordering::SeqCst);
    // SAFETY: the arguments come from the kernel.
    unsafe { on_signal(signal, info, context) };
}

fn calls_of(f: impl FnOnce()) -> usize {
    let before = CALLS.load(Ordering::SeqCst);
    f();
    CALLS.load(Ordering::SeqCst) - before
}

fn raise() {
    // SAFETY: the function has no preconditions. The default action is to ignore the signal.
    assert_eq!(unsafe { libc::raise(SIGNAL) }, 0);
}

#[test]
fn signals_that_are_not_ours_are_forwarded_to_the_previous_handler() {
    let _alone = alone();
    let handlers =
        [(simple as SimpleHandler as usize, 0), (with_info as Handler as usize, libc::SA_SIGINFO)];
    for (handler, flags) in handlers {
        set_handler(handler, flags);
        let (first, second) =
            (SignalSampler::install().unwrap(), SignalSampler::install().unwrap());
        assert!(is_handler(&disposition::current().unwrap(), on_signal));
        assert_eq!(calls_of(raise), 1);

        let target = TestThread::busy();
        let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
        assert_eq!(
            calls_of(|| assert_eq!(target.sample(&first, &mut stack), SampleStatus::Copied)),
            0
        );
        drop(first);
        assert_eq!(
            calls_of(|| assert_eq!(target.sample(&second, &mut stack), SampleStatus::Copied)),
            0
        );
        drop(second);

        let restored = disposition::current().unwrap();
        assert_eq!((restored.sa_sigaction, restored.sa_flags & libc::SA_SIGINFO), (handler, flags));
        assert_eq!(calls_of(raise), 1);
    }
}

#[test]
fn a_signal_that_resembles_ours_is_forwarded() {
    let _alone = alone();
    set_handler(with_info as Handler as usize, libc::SA_SIGINFO);
    let sampler = SignalSampler::install().unwrap();
    let (target, _) = TestThread::blocking_the_signal();
    let mut request = target.request(&sampler).unwrap();
    let number = request.0.number();
    let forwarded = |change: fn(&mut Message)| calls_of(|| forge(Tid::current(), number, change));
    assert_eq!(forwarded(|_| ()), 0);
    assert_eq!(forwarded(|message| message.value = 5), 1);
    assert_eq!(LAST_INFO.load(Ordering::SeqCst), 5);
    assert_eq!(forwarded(|message| message.value ^= 1 << 63), 1);
    assert_eq!(forwarded(|message| message.pid += 1), 1);
    assert_eq!(forwarded(|message| message.code = libc::SI_MESGQ), 1);
    assert!(request.cancel());
}

#[test]
fn errno_is_restored() {
    let _alone = alone();
    set_handler(simple as SimpleHandler as usize, 0);
    let _sampler = SignalSampler::install().unwrap();
    set_errno(libc::EXDEV);
    raise();
    assert_eq!(errno(), libc::EXDEV);
}

#[test]
fn default_and_ignore_are_restored() {
    let _alone = alone();
    for handler in [libc::SIG_DFL, libc::SIG_IGN] {
        set_handler(handler, 0);
        let sampler = SignalSampler::install().unwrap();
        raise();
        drop(sampler);
        assert_eq!(disposition::current().unwrap().sa_sigaction, handler);
    }
}

#[test]
fn a_handler_installed_after_ours_is_kept() {
    let _alone = alone();
    set_handler(simple as SimpleHandler as usize, 0);
    let later = on_top as Handler as usize;
    let sampler = SignalSampler::install().unwrap();
    set_handler(later, libc::SA_SIGINFO);
    let target = TestThread::busy();
    let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
    assert_eq!(
        calls_of(|| assert_eq!(target.sample(&sampler, &mut stack), SampleStatus::Copied)),
        100
    );
    drop(sampler);
    assert_eq!(disposition::current().unwrap().sa_sigaction, later);
    assert_eq!(calls_of(raise), 101, "ours still forwards");

    // It forwards to ours, so installing ours on top of it would make a circle.
    let sampler = SignalSampler::install().unwrap();
    assert_eq!(disposition::current().unwrap().sa_sigaction, later);
    assert_eq!(calls_of(raise), 101);
    assert_eq!(
        calls_of(|| assert_eq!(target.sample(&sampler, &mut stack), SampleStatus::Copied)),
        100
    );
    drop(sampler);

    // Neither of the two is installed any more.
    set_handler(libc::SIG_DFL, 0);
    let sampler = SignalSampler::install().unwrap();
    assert!(is_handler(&disposition::current().unwrap(), on_signal));
    assert_eq!(calls_of(raise), 0);
    assert_eq!(target.sample(&sampler, &mut stack), SampleStatus::Copied);
    drop(sampler);
    assert_eq!(disposition::current().unwrap().sa_sigaction, libc::SIG_DFL);
}

#[test]
fn a_different_previous_handler_is_restored_each_time() {
    let _alone = alone();
    for handler in
        [simple as SimpleHandler as usize, libc::SIG_IGN, simple as SimpleHandler as usize]
    {
        set_handler(handler, 0);
        let sampler = SignalSampler::install().unwrap();
        assert_eq!(calls_of(raise), usize::from(is_function(handler)));
        drop(sampler);
        assert_eq!(disposition::current().unwrap().sa_sigaction, handler);
    }
}

#[test]
fn without_forwarding_a_request_is_not_fulfilled() {
    let _alone = alone();
    let (sampler, target) = (SignalSampler::install().unwrap(), TestThread::busy());
    set_handler(simple as SimpleHandler as usize, libc::SA_RESTART);
    let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
    let mut request = target.request(&sampler).unwrap();
    assert_eq!(wait(&mut request, &mut stack, NO_RESPONSE), SampleStatus::Pending);
    assert!(request.cancel());
    set_handler(libc::SIG_DFL, 0);
    let mut request = target.request(&sampler).unwrap();
    assert_eq!(wait(&mut request, &mut stack, NO_RESPONSE), SampleStatus::Pending);
}
