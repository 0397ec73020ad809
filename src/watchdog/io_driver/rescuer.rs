//! The thread that detects and resolves driver starvation.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::super::timing::SUSPECT_AGE;
use super::super::worker_search::find_worker_thread;
use super::sentinel::{Sentinel, SentinelState};
use super::socket::Sender;
use crate::shard::{PollObservations, Shard};
use crate::state::{MonitorState, is_parked};
use crate::sync::{AtomicBool, Ordering};

/// How long a probe may take before the driver counts as starved. A worker that waits on it
/// responds within microseconds, unless the host is overloaded.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(2);
/// A wait that takes so much longer than it should shows that the host is overloaded, and is
/// repeated.
const OVERSLEPT: Duration = Duration::from_millis(1);
const MAX_WAITS: u32 = 4;
/// The time between two searches for the threads of workers, which read `/proc`.
const SEARCH_PERIOD: Duration = Duration::from_millis(100);

/// The watchdog's handle to the rescuer's thread.
#[derive(Clone, Debug)]
pub(crate) struct Rescuer(Arc<Wakeup>);

/// How the rescuer is woken.
#[derive(Debug, Default)]
struct Wakeup {
    requested: AtomicBool,
    closed: AtomicBool,
    thread: OnceLock<Thread>,
}

/// What the rescuer's thread runs.
pub(crate) struct RescueLoop {
    monitor: Arc<MonitorState>,
    wakeup: Arc<Wakeup>,
    sentinel: Arc<SentinelState>,
    /// `None` if the driver cannot be probed: the runtime has none, or is gone.
    sender: Option<Sender>,
    /// Whether to resolve starvation, or only to detect it.
    rescue: bool,
    /// Whether a worker was woken while the driver was starved, and no probe has been acknowledged
    /// since.
    pending_credit: bool,
    /// When threads of workers were searched for last.
    searched_at: Option<Instant>,
}

// === impl Rescuer ===

impl Rescuer {
    /// Creates the rescuer of the runtime that `Sentinel::run` will be spawned on, and what its
    /// thread runs. With `rescue`, it also resolves starvation.
    pub(crate) fn new(
        monitor: Arc<MonitorState>,
        has_io: bool,
        rescue: bool,
    ) -> io::Result<(Self, RescueLoop, Sentinel)> {
        let wakeup = Arc::<Wakeup>::default();
        let (sentinel, shared, sender) = Sentinel::new(has_io)?;
        let rescue_loop = RescueLoop {
            monitor,
            wakeup: Arc::clone(&wakeup),
            sentinel: shared,
            sender,
            rescue,
            pending_credit: false,
            searched_at: None,
        };
        Ok((Self(wakeup), rescue_loop, sentinel))
    }

    /// Sets the thread to wake. The spawner calls this before anything wakes the rescuer.
    pub(crate) fn set_thread(&self, thread: Thread) {
        let _ = self.0.thread.set(thread);
    }

    /// Reports that a poll has taken so long that the driver may be starved.
    pub(crate) fn wake(&self) {
        self.0.request();
        self.unpark();
    }

    pub(crate) fn close(&self) {
        self.0.close();
        self.unpark();
    }

    fn unpark(&self) {
        if let Some(thread) = self.0.thread.get() {
            thread.unpark();
        }
    }

    /// Creates a handle to no thread.
    #[cfg(all(test, not(tower_stall_loom)))]
    pub(in super::super) fn detached() -> Self {
        Self(Arc::default())
    }
}

// === impl Wakeup ===

impl Wakeup {
    fn request(&self) {
        // Release: pairs with the Acquire in `take_request`.
        self.requested.store(true, Ordering::Release);
    }

    fn take_request(&self) -> bool {
        // Acquire: pairs with the Release in `request`.
        self.requested.swap(false, Ordering::Acquire)
    }

    fn close(&self) {
        // Release: pairs with the Acquire in `is_closed`.
        self.closed.store(true, Ordering::Release);
    }

    fn is_closed(&self) -> bool {
        // Acquire: pairs with the Release in `close`.
        self.closed.load(Ordering::Acquire)
    }
}

// === impl RescueLoop ===

impl RescueLoop {
    pub(crate) fn run(mut self) {
        self.sentinel.probe.set_thread(std::thread::current());
        while !self.wakeup.is_closed() {
            if self.wakeup.take_request() {
                self.search_threads();
                self.probe_once();
            } else {
                std::thread::park();
            }
        }
    }

    /// Searches for the threads of workers that are not known, now and then.
    fn search_threads(&mut self) {
        let is_due = self.searched_at.is_none_or(|at| at.elapsed() >= SEARCH_PERIOD);
        if is_due && self.monitor.worker_threads.unknown() > 0 {
            find_worker_thread(&self.monitor);
            self.searched_at = Some(Instant::now());
        }
    }

    /// Probes the driver, and wakes a worker.
    fn probe_once(&mut self) {
        if self.pending_credit && self.sentinel.probe.is_acknowledged() {
            self.mark_rescued();
        }
        let sent_at = self.monitor.clock.now();
        let is_starved = self.is_starved();
        if is_starved {
            self.for_each_suspect(sent_at, PollObservations::set_starved);
        }
        if !self.rescue {
            // The sentinel is evidence of which workers poll tasks at all. It must not wake a
            // worker, so it is woken only if none is parked.
            if !self.has_parked_worker() {
                self.sentinel.wake();
            }
            return;
        }
        self.sentinel.wake();
        self.pending_credit |= is_starved;
        if is_starved && self.is_acknowledged_soon() {
            self.mark_rescued();
        }
    }

    /// Credits the rescue to the stalls during which the driver was starved before.
    fn mark_rescued(&mut self) {
        self.pending_credit = false;
        let now = self.monitor.clock.now();
        self.for_each_suspect(u64::MAX, |observations, start| {
            if observations.is_starved(start) && observations.rescued_at(start).is_none() {
                observations.set_rescued(start, now);
            }
        });
    }

    /// Returns whether no worker waits on the driver.
    fn is_starved(&mut self) -> bool {
        let Some(sender) = &self.sender else { return false };
        if self.sentinel.probe.begin() && sender.send().is_err() {
            self.sender = None;
            return false;
        }
        !self.is_acknowledged_soon()
    }

    /// Waits for the last probe to be acknowledged, which wakes this thread.
    fn is_acknowledged_soon(&self) -> bool {
        for _ in 0..MAX_WAITS {
            let deadline = Instant::now() + RESPONSE_TIMEOUT;
            loop {
                if self.sentinel.probe.is_acknowledged() {
                    return true;
                }
                let remaining = deadline.saturating_duration_since(Instant::now());
                if remaining.is_zero() {
                    break;
                }
                std::thread::park_timeout(remaining);
            }
            // Where this thread runs late, so may the one that waits on the driver.
            if deadline.elapsed() < OVERSLEPT {
                break;
            }
        }
        self.sentinel.probe.is_acknowledged()
    }

    /// Calls `f` with each poll on a worker that had been a suspect at a moment, in ticks. Only a
    /// worker can hold the driver.
    fn for_each_suspect(&self, at: u64, f: impl Fn(&PollObservations, u64)) {
        let monitor = &self.monitor;
        let suspect_age = monitor.clock.ticks(SUSPECT_AGE);
        let is_suspect =
            |start: u64| at.min(monitor.clock.now()).saturating_sub(start) >= suspect_age;
        let is_on_worker = |shard: &Shard| shard.worker().is_some() || shard.is_unknown_worker();
        let measured = monitor.polls_in_progress().filter(|(shard, ..)| is_on_worker(shard));
        for (shard, poll, _) in measured.filter(|(_, poll, _)| is_suspect(poll.start)) {
            f(&shard.observations, poll.start);
        }
        for poll in &monitor.unattributed {
            if let Some(since) = poll.observed_since().filter(|&since| is_suspect(since)) {
                f(&poll.observations, since);
            }
        }
    }

    fn has_parked_worker(&self) -> bool {
        let metrics = self.monitor.runtime.metrics();
        (0..metrics.num_workers()).any(|worker| is_parked(&metrics, worker))
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use super::*;
    use crate::sync::check_publishes;

    #[test]
    fn loom_waking_and_closing_the_rescuer_publish_what_was_written_before() {
        check_publishes(Wakeup::request, Wakeup::take_request);
        check_publishes(Wakeup::close, Wakeup::is_closed);
    }
}
