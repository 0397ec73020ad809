//! The process's disposition of the signal: installs our handler, forwards to the one that was
//! installed before, and restores that.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::message::SIGNAL;

/// A handler that takes the signal's number.
type SimpleHandler = unsafe extern "C" fn(c_int);
/// A handler that takes all three arguments.
pub(super) type Handler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// The handler that was installed before ours: its address, and whether it takes all three
/// arguments. One word, because our handler reads it at any time.
#[derive(Clone, Copy)]
struct PreviousHandler(usize);

/// Whether our handler is installed. Never accessed by the handler.
struct Installed {
    users: usize,
    /// What ours replaced, until that is restored.
    replaced: Option<libc::sigaction>,
}

/// Keeps its value when our handler is uninstalled: one that is still running needs it, and so does
/// one that a later handler forwards to.
static PREVIOUS: AtomicUsize = AtomicUsize::new(PreviousHandler::NONE.0);

static INSTALLED: Mutex<Installed> = Mutex::new(Installed { users: 0, replaced: None });

/// Installs the handler, unless it is installed already. Takes a lock.
///
/// # Safety
///
/// - The handler must be sound with the arguments that the kernel passes.
/// - It must be async-signal-safe.
pub(super) unsafe fn acquire(handler: Handler) -> io::Result<()> {
    let mut installed = Installed::lock();
    // SAFETY: the caller guarantees the same conditions.
    unsafe { installed.install(handler) }?;
    installed.users += 1;
    Ok(())
}

/// Restores what was installed before the handler, if this was its last user. Takes a lock.
pub(super) fn release(handler: Handler) {
    let mut installed = Installed::lock();
    installed.users = installed.users.saturating_sub(1);
    if installed.users == 0 {
        installed.uninstall(handler);
    }
}

/// Forwards a signal that is not ours. Async-signal-safe, provided that the previous handler is.
///
/// # Safety
///
/// - `info` and `context` must be the arguments with which the kernel called the handler, or null
///   if a handler before ours passed null.
pub(super) unsafe fn forward(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // Acquire: pairs with the Release in `publish`.
    let previous = PreviousHandler(PREVIOUS.load(Ordering::Acquire));
    // SAFETY: `publish` stores what `sigaction` has returned; the caller vouches for the arguments.
    unsafe { previous.call(signal, info, context) };
}

// === impl PreviousHandler ===

impl PreviousHandler {
    const NONE: Self = Self(libc::SIG_DFL << 1);

    fn new(action: &libc::sigaction) -> Self {
        // The highest bit of an address in user space is 0.
        Self(action.sa_sigaction << 1 | usize::from(action.sa_flags & libc::SA_SIGINFO != 0))
    }

    fn publish(self) {
        // Release: pairs with the Acquire in `forward`.
        PREVIOUS.store(self.0, Ordering::Release);
    }

    /// Does what the kernel would do without our handler. The default action is to ignore the
    /// signal, like SIG_IGN.
    ///
    /// # Safety
    ///
    /// - `self` must have been created from an action that `sigaction` returned, or be `NONE`.
    /// - `info` and `context` must be valid for a handler of the signal.
    unsafe fn call(self, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        let address = self.0 >> 1;
        if !is_function(address) {
            return;
        }
        let function = address as *const ();
        if self.0 & 1 == 0 {
            // SAFETY: without SA_SIGINFO, the address is that of a function that takes the signal's
            // number.
            unsafe { mem::transmute::<*const (), SimpleHandler>(function)(signal) };
        } else {
            // SAFETY: with SA_SIGINFO, the address is that of a function that takes all three
            // arguments, for which the caller vouches.
            unsafe { mem::transmute::<*const (), Handler>(function)(signal, info, context) };
        }
    }
}

// === impl Installed ===

impl Installed {
    fn lock() -> MutexGuard<'static, Self> {
        INSTALLED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Safety
    ///
    /// As for [`acquire`].
    unsafe fn install(&mut self, handler: Handler) -> io::Result<()> {
        let now = current()?;
        // A handler that replaced ours may forward to it. If ours were installed again on top, the
        // two would call each other in a circle.
        let may_forward_to_ours = self.replaced.is_some() && is_function(now.sa_sigaction);
        if is_handler(&now, handler) || may_forward_to_ours {
            return Ok(());
        }
        // Once before our handler can run, and once more in case that another one was installed
        // meanwhile.
        PreviousHandler::new(&now).publish();
        // SAFETY: `handler` has the type that SA_SIGINFO requires. The caller vouches for the
        // rest.
        let replaced = unsafe { set_action(&action(handler, &now)) }?;
        let replaced = if is_handler(&replaced, handler) { now } else { replaced };
        PreviousHandler::new(&replaced).publish();
        self.replaced = Some(replaced);
        Ok(())
    }

    /// Restores what our handler replaced, unless another handler has replaced ours.
    fn uninstall(&mut self, handler: Handler) {
        if !current().is_ok_and(|current| is_handler(&current, handler)) {
            return;
        }
        if let Some(replaced) = self.replaced.take() {
            // SAFETY: it was installed before. It cannot fail for the same reason.
            let _ = unsafe { set_action(&replaced) };
        }
    }
}

/// Returns the action with which `handler` replaces `current`.
fn action(handler: Handler, current: &libc::sigaction) -> libc::sigaction {
    let mut action = *current;
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    // A previous handler runs with the signals blocked that its action specifies.
    if !is_function(current.sa_sigaction) {
        action.sa_mask = asynchronous_signals();
    }
    action
}

/// Returns all signals except those that a fault raises: if one of these is blocked, the fault ends
/// the process without running its handler.
fn asynchronous_signals() -> libc::sigset_t {
    let mut signals = MaybeUninit::uninit();
    // SAFETY: the pointer is to memory for a `sigset_t`, which `sigfillset` initializes before it
    // is used.
    unsafe {
        libc::sigfillset(signals.as_mut_ptr());
        for fault in
            [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS]
        {
            libc::sigdelset(signals.as_mut_ptr(), fault);
        }
        signals.assume_init()
    }
}

pub(super) fn is_handler(action: &libc::sigaction, handler: Handler) -> bool {
    action.sa_sigaction == handler as usize
}

pub(super) fn is_function(handler: libc::sighandler_t) -> bool {
    handler != libc::SIG_DFL && handler != libc::SIG_IGN
}

/// Returns the current action.
pub(super) fn current() -> io::Result<libc::sigaction> {
    // SAFETY: without a new action, nothing is changed.
    unsafe { sigaction(None) }
}

/// Sets the action, and returns the one before.
///
/// # Safety
///
/// As for [`sigaction`].
pub(super) unsafe fn set_action(action: &libc::sigaction) -> io::Result<libc::sigaction> {
    // SAFETY: the caller guarantees the same conditions.
    unsafe { sigaction(Some(action)) }
}

/// Sets the action, if there is one, and returns the one before.
///
/// # Safety
///
/// - The action's handler must be SIG_DFL, SIG_IGN, or the address of a function that takes the
///   arguments that the flags indicate.
/// - That function must be sound with the arguments that the kernel passes, and async-signal-safe.
unsafe fn sigaction(action: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let mut before = MaybeUninit::uninit();
    let action = action.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `action` is null or comes from a reference, and the caller vouches for its handler.
    // `before` is memory for a `sigaction`.
    if unsafe { libc::sigaction(SIGNAL, action, before.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a call that returned 0 has initialized it.
    Ok(unsafe { before.assume_init() })
}

/// Forgets what our handler has replaced.
#[cfg(not(tower_stall_loom))]
#[cfg(test)]
pub(super) fn reset() {
    Installed::lock().replaced = None;
}
