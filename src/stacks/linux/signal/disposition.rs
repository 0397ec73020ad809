//! Who has the signal: our handler is put in place, calls whoever had it before, and puts that back.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{SIGNAL, on_signal};

/// Who had the signal before: where its function is, and whether it wants more than the signal's number. Kept in one
/// word, since the handler reads it at any time.
#[derive(Clone, Copy)]
struct Previous(usize);

/// Whether our handler is in place. Never touched by the handler.
pub(super) struct Installed {
    users: usize,
    /// What ours replaced, until that is put back.
    pub(super) replaced: Option<libc::sigaction>,
}

type Plain = extern "C" fn(c_int);
pub(super) type WithInfo = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Stays as it was when our handler is gone: one that is still running, or that somebody else calls, needs it.
static PREVIOUS: AtomicUsize = AtomicUsize::new(Previous::NONE.0);

pub(super) static INSTALLED: Mutex<Installed> = Mutex::new(Installed { users: 0, replaced: None });

/// Puts the handler in place, if it is not yet. Takes a lock.
pub(super) fn take() -> io::Result<()> {
    let mut installed = Installed::lock();
    installed.place()?;
    installed.users += 1;
    Ok(())
}

/// Puts back what was there before, if nobody needs the handler any more. Takes a lock.
pub(super) fn give_back() {
    let mut installed = Installed::lock();
    installed.users = installed.users.saturating_sub(1);
    if installed.users == 0 {
        installed.remove();
    }
}

/// Passes a signal on that is not ours. Called by the handler.
pub(super) fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // Acquire, the partner of the Release in `publish`.
    Previous(PREVIOUS.load(Ordering::Acquire)).call(signal, info, context);
}

// === impl Previous ===

impl Previous {
    const NONE: Self = Self(libc::SIG_DFL << 1);

    fn of(action: &libc::sigaction) -> Self {
        // An address in user space does not need its highest bit.
        Self(action.sa_sigaction << 1 | usize::from(action.sa_flags & libc::SA_SIGINFO != 0))
    }

    fn publish(self) {
        // Release, the partner of the Acquire in `pass_on`, although no other memory belongs to it.
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
        let now = current()?;
        // Who took the signal after us may pass it on to us. On top of that one ours would be called in a circle.
        let may_be_below = self.replaced.is_some() && is_function(now.sa_sigaction);
        if is_ours(&now) || may_be_below {
            return Ok(());
        }
        // Once before the handler can run, and once more in case that somebody else was quicker.
        Previous::of(&now).publish();
        let replaced = Some(dispose(&ours(&now))?).filter(|replaced| !is_ours(replaced)).unwrap_or(now);
        Previous::of(&replaced).publish();
        self.replaced = Some(replaced);
        Ok(())
    }

    /// Puts back what ours replaced, unless somebody has replaced ours.
    fn remove(&mut self) {
        if !current().is_ok_and(|current| is_ours(&current)) {
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

pub(super) fn is_ours(action: &libc::sigaction) -> bool {
    action.sa_sigaction == on_signal as WithInfo as usize
}

pub(super) fn is_function(handler: libc::sighandler_t) -> bool {
    handler != libc::SIG_DFL && handler != libc::SIG_IGN
}

pub(super) fn current() -> io::Result<libc::sigaction> {
    sigaction(ptr::null())
}

/// Returns what was there before.
pub(super) fn dispose(action: &libc::sigaction) -> io::Result<libc::sigaction> {
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
