//! The thread of the hook, which may hang in it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::message::Message;
use super::outbox::Outbox;
use crate::stall::Stall;
use crate::state::MonitorState;

/// A user's function that is called with each stall.
pub(crate) type Hook = Box<dyn Fn(&Stall) + Send + Sync>;

/// Calls the hook with what the reporter sends.
pub(crate) struct HookLoop {
    monitor: Arc<MonitorState>,
    outbox: Arc<Outbox<Message>>,
    hook: Hook,
}

impl HookLoop {
    pub(super) fn new(
        monitor: Arc<MonitorState>,
        outbox: Arc<Outbox<Message>>,
        hook: Hook,
    ) -> Self {
        Self { monitor, outbox, hook }
    }

    /// Runs until the outbox is closed.
    pub(crate) fn run(self) {
        self.outbox.receive_all(|message| self.call(&message));
    }

    /// Calls the hook, unless the message is outdated. A panic in the hook is counted.
    fn call(&self, message: &Message) {
        if !message.is_current(&self.monitor, Instant::now()) {
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| (self.hook)(&message.stall))).is_err() {
            self.monitor.history.lock().hook_panics += 1;
        }
    }
}
