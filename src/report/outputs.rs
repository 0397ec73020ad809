//! Where reports go: to the log and to the hook, each on a thread of its own.

use std::sync::Arc;
use std::time::Instant;

use super::hook::{Hook, HookLoop};
use super::log::{Log, LogLoop};
use super::message::Message;
use super::outbox::Outbox;
use crate::state::MonitorState;
use crate::trace::{Parent, SpanRef};

/// The reporter's handle to the log and to the hook.
#[derive(Clone)]
pub(crate) struct Outputs {
    monitor: Arc<MonitorState>,
    pub(super) log: Arc<Log>,
    pub(super) hook: Option<Arc<Outbox<Message>>>,
}

impl Outputs {
    /// Creates the outputs, and what their threads run. Events go to the current subscriber.
    pub(crate) fn new(
        monitor: Arc<MonitorState>,
        hook: Option<Hook>,
        reports_per_minute: u32,
    ) -> (Self, LogLoop, Option<HookLoop>) {
        let log = Arc::new(Log::new(Arc::clone(&monitor), reports_per_minute));
        let log_loop = LogLoop::new(Arc::clone(&log));
        let (hook, hook_loop) = hook
            .map(|hook| {
                let outbox = Arc::<Outbox<Message>>::default();
                let hook_loop = HookLoop::new(Arc::clone(&monitor), Arc::clone(&outbox), hook);
                (outbox, hook_loop)
            })
            .unzip();
        (Self { monitor, log, hook }, log_loop, hook_loop)
    }

    /// Sends a report to the hook and, unless it is suppressed, to the log. What finds an outbox
    /// full is counted as dropped. Returns the span that is not needed.
    pub(super) fn send(&self, message: Message, parent: Parent) -> Option<SpanRef> {
        if let Some(hook) = &self.hook {
            if hook.send(message.clone()).is_err() {
                self.monitor.queue.count_dropped();
            }
        }
        self.log.send(message, parent)
    }

    /// Lets the threads of the outputs end, once they have processed everything.
    pub(crate) fn close(&self) {
        self.log.close();
        if let Some(hook) = &self.hook {
            hook.close();
        }
    }

    /// Waits until the threads of the outputs have ended, or until a deadline.
    pub(crate) fn wait_for_end(&self, deadline: Instant) {
        self.log.wait_for_end(deadline);
        if let Some(hook) = &self.hook {
            hook.wait_for_end(deadline);
        }
    }
}
