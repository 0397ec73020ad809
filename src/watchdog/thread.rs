//! The watchdog's thread.
//!
//! It neither allocates nor takes a lock, so that no polling thread can delay it, whichever lock
//! that thread stalls with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Rescuer;
use super::inspector::PollInspector;
use super::mode::Mode;
use super::self_check::{Period, SelfCheck};
use super::stats::WatchdogStats;
use super::timing::{
    FLUSH_PERIOD, IDLE_AFTER, IDLE_FLUSH_PERIOD, IDLE_PERIOD, SUSPECT_AGE, period,
};
use super::workers::WorkerTracker;
use crate::stacks::StackSampler;
use crate::state::MonitorState;

/// Scans the shards. Times are in ticks of the monitor's clock.
pub(crate) struct Watchdog {
    monitor: Arc<MonitorState>,
    stats: Arc<WatchdogStats>,
    rescuer: Rescuer,
    inspector: PollInspector,
    workers: WorkerTracker,
    self_check: SelfCheck,
    mode: Mode,
    last_scan: Scan,
    active_at: u64,
    flushed_at: u64,
}

/// What one scan found.
#[derive(Clone, Copy, Debug)]
struct Scan {
    /// The sum of the shards' activity.
    activity: u64,
    is_polling: bool,
    /// Whether a worker runs unmeasured code.
    is_worker_busy: bool,
    has_suspects: bool,
    stalls_in_progress: usize,
    /// When the next poll becomes a stall.
    next_stall: u64,
}

impl Watchdog {
    pub(crate) fn new(
        monitor: Arc<MonitorState>,
        stats: Arc<WatchdogStats>,
        rescuer: Rescuer,
        sampler: StackSampler,
    ) -> Self {
        let now = monitor.clock.now();
        Self {
            inspector: PollInspector::new(Arc::clone(&monitor), sampler),
            workers: WorkerTracker::new(Arc::clone(&monitor)),
            self_check: SelfCheck::new(),
            mode: Mode::Active,
            last_scan: Scan::EMPTY,
            active_at: now,
            flushed_at: now,
            monitor,
            stats,
            rescuer,
        }
    }

    /// Scans until the notifier is closed, then ends the other threads.
    pub(crate) fn run(mut self) {
        self.monitor.queue.request_flush();
        let mut woken_at = Instant::now();
        while !self.monitor.notifier.is_closed() {
            self.run_once();
            let pause = self.pause();
            let parked_at = Instant::now();
            std::thread::park_timeout(pause);
            // A pause that ends early, because a poll woke the watchdog, is not late.
            let late = parked_at.elapsed().saturating_sub(pause);
            // A delay may also have happened in the middle of a scan.
            let length = std::mem::replace(&mut woken_at, Instant::now()).elapsed();
            let is_host_delay = self.self_check.record(&self.monitor, Period { length, pause });
            let late = if is_host_delay { late } else { Duration::ZERO };
            self.stats.add_late(&self.monitor.clock, &self.monitor.bounds, late);
            let clock = &self.monitor.clock;
            self.monitor.lateness.record_delay(clock.ticks(late), clock.now());
        }
        // The watchdog will not see their end.
        self.monitor.end_unattributed(self.monitor.clock.now());
        self.rescuer.close();
        self.monitor.close_queue();
    }

    fn run_once(&mut self) {
        self.stats.count_scan();
        let now = self.monitor.clock.now();
        // A clock that has jumped back must not stop the timers.
        self.active_at = self.active_at.min(now);
        self.flushed_at = self.flushed_at.min(now);
        self.inspector.collect();
        let scan = self.scan();
        self.monitor.scanned_until.set(now);
        if scan.has_suspects {
            self.monitor.lateness.mark(now);
            self.rescuer.wake();
        }
        self.update_mode(&scan, now);
        let last = std::mem::replace(&mut self.last_scan, scan);
        self.notify_others(&last, now);
    }

    fn scan(&mut self) -> Scan {
        let monitor = &self.monitor;
        let (suspect_age, threshold) = (monitor.clock.ticks(SUSPECT_AGE), monitor.threshold());
        let mut scan = Scan::EMPTY;
        for shard in monitor.shards.leased() {
            scan.activity = scan.activity.wrapping_add(shard.current_poll.activity());
        }
        for (shard, poll, age) in monitor.polls_in_progress() {
            scan.is_polling = true;
            scan.has_suspects |= age >= suspect_age;
            if age <= threshold {
                scan.next_stall = scan.next_stall.min(poll.start.saturating_add(threshold));
            }
            self.inspector.inspect(shard, poll, age);
        }
        let workers = self.workers.scan(&mut self.inspector);
        scan.is_worker_busy = workers.is_busy;
        scan.has_suspects |= workers.is_suspect;
        scan.stalls_in_progress = monitor.stalls_in_progress().count();
        scan
    }

    fn update_mode(&mut self, scan: &Scan, now: u64) {
        let notifier = &self.monitor.notifier;
        let was_notified = self.mode != Mode::Active && !notifier.is_armed();
        if was_notified
            || scan.is_polling
            || scan.activity != self.last_scan.activity
            || self.is_worker_still_busy(scan)
        {
            self.active_at = now;
        }
        let is_quiet = self.has_elapsed(self.active_at, IDLE_AFTER, now);
        self.mode = self.mode.next(is_quiet);
        match self.mode {
            Mode::Active => notifier.disarm(),
            Mode::Arming => notifier.arm(),
            Mode::Idle => {}
        }
    }

    /// Returns whether two scans in a row found a worker busy. One may have met a short task that a
    /// timer has woken, such as the lag probe, which must not wake an idle watchdog for long.
    fn is_worker_still_busy(&self, scan: &Scan) -> bool {
        scan.is_worker_busy && self.last_scan.is_worker_busy
    }

    /// Asks for a flush of the counters if one is due, or if a stall has begun, for the
    /// symbolization of captured stacks, and for the attribution of delays.
    fn notify_others(&mut self, last: &Scan, now: u64) {
        let (scan, monitor) = (&self.last_scan, &self.monitor);
        // What was counted last is flushed before the watchdog goes idle.
        let is_urgent =
            scan.stalls_in_progress > last.stalls_in_progress || self.mode == Mode::Arming;
        let flush_period = if self.mode == Mode::Idle { IDLE_FLUSH_PERIOD } else { FLUSH_PERIOD };
        let has_captures = self.inspector.take_captured();
        let is_flush_due = is_urgent || self.has_elapsed(self.flushed_at, flush_period, now);
        // Stacks of polls that are not stalls yet wait until they are, while there is room.
        let is_in_need = scan.stalls_in_progress > 0 || monitor.capture_pool.is_low();
        if is_flush_due || (has_captures && is_in_need) {
            monitor.capture_pool.notify_symbolizer();
        }
        if is_flush_due {
            if monitor.blocking_pool_wait.due(0, now).is_some() {
                monitor.capture_pool.wake_symbolizer();
            }
            monitor.queue.request_flush();
            self.flushed_at = now;
        }
        let attribution = &monitor.attribution;
        if attribution.is_filling() || (is_flush_due && attribution.has_delays()) {
            monitor.queue.notify();
        }
    }

    /// Returns the pause until the next scan.
    fn pause(&self) -> Duration {
        if self.mode == Mode::Idle && !self.last_scan.is_worker_busy {
            return IDLE_PERIOD;
        }
        let (clock, threshold) = (&self.monitor.clock, self.monitor.threshold());
        let until_next_stall = self.last_scan.next_stall.saturating_sub(clock.now()).min(threshold);
        period(clock.duration(threshold), clock.duration(until_next_stall))
    }

    fn has_elapsed(&self, since: u64, duration: Duration, now: u64) -> bool {
        now.saturating_sub(since) >= self.monitor.clock.ticks(duration)
    }
}

impl Scan {
    const EMPTY: Self = Self {
        activity: 0,
        is_polling: false,
        is_worker_busy: false,
        has_suspects: false,
        stalls_in_progress: 0,
        next_stall: u64::MAX,
    };
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Waker;

    use super::super::timing::{MAX_PERIOD, SLACK};
    use super::*;
    use crate::os::Clock;
    use crate::request::{HANDLER, PollGuard, RequestGuard, StackMark};
    use crate::state::tests::state;

    const MILLI: u64 = 1_000_000;

    /// A watchdog whose clock is set by hand, in nanoseconds, and that runs on no thread.
    struct Driven {
        time: Arc<AtomicU64>,
        monitor: Arc<MonitorState>,
        watchdog: Watchdog,
    }

    impl Driven {
        fn new() -> Self {
            let time = Arc::new(AtomicU64::new(1_000 * MILLI));
            let monitor = state(Clock::Manual(Arc::clone(&time)));
            // The worker of a runtime that does not run never parks, and would be a suspect.
            let mut monitor = Arc::into_inner(monitor).unwrap();
            monitor.unattributed = Box::default();
            let monitor = Arc::new(monitor);
            monitor.set_threshold(Duration::from_millis(25));
            let watchdog = Watchdog::new(
                Arc::clone(&monitor),
                Arc::default(),
                Rescuer::detached(),
                StackSampler::new(false).unwrap(),
            );
            Self { time, monitor, watchdog }
        }

        /// One that has gone idle.
        fn idle() -> Self {
            let mut driven = Self::new();
            driven.run_after(100);
            driven.run_after(5);
            assert_eq!(driven.watchdog.mode, Mode::Idle);
            driven
        }

        /// Lets some time pass, then scans.
        fn run_after(&mut self, millis: u64) {
            self.time.fetch_add(millis * MILLI, Ordering::Relaxed);
            self.watchdog.run_once();
        }

        /// Makes this many polls and scans, one each 10 ms. Returns the number of flushes.
        fn flushes_under_load(&mut self, polls: u32) -> u32 {
            let mut task = RequestGuard::task(&self.monitor, "task");
            let mut flushes = 0;
            for _ in 0..polls {
                let record = task.bind_to_current_thread().unwrap();
                PollGuard::<HANDLER>::begin_poll(record, Waker::noop(), &StackMark::new()).0.end();
                self.run_after(10);
                flushes += u32::from(self.take_flush());
            }
            flushes
        }

        /// Returns whether a flush was requested.
        fn take_flush(&self) -> bool {
            self.monitor.queue.take_flush()
        }
    }

    #[test]
    fn a_quiet_watchdog_arms_the_notifier_one_scan_before_it_goes_idle() {
        let mut driven = Driven::new();
        driven.run_after(99);
        assert_eq!(
            (driven.watchdog.mode, driven.monitor.notifier.is_armed()),
            (Mode::Active, false)
        );
        driven.run_after(1);
        assert_eq!(
            (driven.watchdog.mode, driven.monitor.notifier.is_armed()),
            (Mode::Arming, true)
        );
        assert!(driven.take_flush(), "the counters are flushed before it goes idle");
        assert_eq!(driven.watchdog.pause(), MAX_PERIOD);
        driven.run_after(5);
        assert_eq!((driven.watchdog.mode, driven.watchdog.pause()), (Mode::Idle, IDLE_PERIOD));
    }

    #[test]
    fn a_poll_wakes_an_idle_watchdog() {
        let mut driven = Driven::idle();
        let mut task = RequestGuard::task(&driven.monitor, "task");
        PollGuard::<HANDLER>::begin_call(task.record().unwrap(), &StackMark::new()).end();
        assert!(!driven.monitor.notifier.is_armed(), "the poll has notified the watchdog");
        driven.run_after(1);
        assert_eq!(driven.watchdog.mode, Mode::Active);
    }

    #[test]
    fn only_a_worker_that_two_scans_find_busy_ends_the_idle_mode() {
        let mut driven = Driven::idle();
        let busy = Scan { is_worker_busy: true, ..driven.watchdog.last_scan };
        let mut find_busy = |expected| {
            let now = driven.monitor.clock.now();
            driven.watchdog.update_mode(&busy, now);
            driven.watchdog.last_scan = busy;
            assert_eq!((driven.watchdog.mode, driven.watchdog.pause()), (expected, MAX_PERIOD));
        };
        find_busy(Mode::Idle);
        find_busy(Mode::Active);
    }

    #[test]
    fn counters_are_flushed_every_quarter_of_a_second_under_load() {
        assert_eq!(Driven::new().flushes_under_load(100), 4);
    }

    #[test]
    fn a_clock_that_jumps_back_does_not_keep_the_watchdog_active() {
        let mut driven = Driven::new();
        driven.time.store(MILLI, Ordering::Relaxed);
        driven.watchdog.run_once();
        driven.run_after(100);
        driven.run_after(5);
        assert_eq!(driven.watchdog.mode, Mode::Idle);
    }

    #[test]
    fn a_clock_that_jumps_back_does_not_stop_the_flushes() {
        let mut driven = Driven::new();
        assert_eq!(driven.flushes_under_load(30), 1);
        driven.time.store(MILLI, Ordering::Relaxed);
        assert_eq!(driven.flushes_under_load(30), 1);
    }

    #[test]
    fn a_new_stall_is_flushed_at_once_and_the_scan_is_timed_for_it() {
        let mut driven = Driven::new();
        let mut task = RequestGuard::task(&driven.monitor, "task");
        let mark = StackMark::new();
        let poll = PollGuard::<HANDLER>::begin_call(task.record().unwrap(), &mark);
        driven.run_after(23);
        assert_eq!(driven.watchdog.pause(), Duration::from_millis(2) + SLACK);
        assert!(!driven.take_flush());
        driven.run_after(3);
        assert_eq!(driven.watchdog.last_scan.stalls_in_progress, 1);
        assert!(driven.take_flush());
        driven.run_after(5);
        assert!(!driven.take_flush(), "the stall is not new any more");
        poll.end();
    }

    #[test]
    fn reports_of_a_stall_in_progress_are_due_at_one_second_and_each_doubling() {
        let mut driven = Driven::new();
        let mut task = RequestGuard::task(&driven.monitor, "task");
        let mark = StackMark::new();
        let poll = PollGuard::<HANDLER>::begin_call(task.record().unwrap(), &mark);
        let mut ages = Vec::new();
        for age in 1..=50 {
            driven.run_after(100);
            if driven.monitor.queue.pop_in_progress().is_some() {
                ages.push(age * 100);
            }
        }
        assert_eq!(ages, [1_000, 2_000, 4_000]);
        poll.end();
    }
}
