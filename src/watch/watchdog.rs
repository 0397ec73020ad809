//! The watchdog's thread: reads slots, and nothing else.
//!
//! It neither allocates nor takes a lock, so that no polling thread can hold it up, whatever lock that thread stalls with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Rescuer;
use super::driver::SUSPECT;
use crate::cells::{Bounds, Histogram, Lane, Poll, Samples};
use crate::shared::Shared;
use crate::shared::Sighting;
use crate::sync::{AtomicU64, Ordering};

/// The longest pause between two looks while something is polled.
const LONGEST_TICK: Duration = Duration::from_millis(5);
const SHORTEST_TICK: Duration = Duration::from_millis(1);
/// How long nothing must have been polled before the watchdog sleeps.
const QUIET: Duration = Duration::from_millis(100);
/// The pause between two looks while it sleeps.
const BEAT: Duration = Duration::from_secs(1);
/// How often cells are flushed while something is polled; else with each beat.
const FLUSH: Duration = Duration::from_millis(250);
/// A stall in progress is reported at this age, and each time its age has doubled.
const FIRST_REPORT: Duration = Duration::from_secs(1);

/// The watchdog's own signs of life.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    ticks: AtomicU64,
    late: Histogram,
}

pub(crate) struct Watchdog {
    shared: Arc<Shared>,
    pulse: Arc<Pulse>,
    rescuer: Rescuer,
    bounds: Bounds,
    suspect: u64,
    first_report: u64,
    /// Sum of the lanes' activity at the last look.
    activity: u64,
    active_at: Instant,
    flushed_at: Instant,
    stalled: usize,
    mood: Mood,
}

/// How closely the watchdog looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Awake,
    /// The alarm is armed; one more look before sleep.
    Drowsy,
    Asleep,
}

/// What one look at all lanes found.
#[derive(Default)]
struct Look {
    activity: u64,
    polling: bool,
    suspects: bool,
    stalled: usize,
}

// === impl Pulse ===

impl Pulse {
    pub(crate) fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    pub(crate) fn late(&self) -> Samples {
        let mut late = Samples::default();
        self.late.read_into(&mut late);
        late
    }
}

// === impl Watchdog ===

impl Watchdog {
    pub(crate) fn new(shared: Arc<Shared>, pulse: Arc<Pulse>, rescuer: Rescuer) -> Self {
        let now = Instant::now();
        Self {
            bounds: shared.bounds.clone(),
            suspect: shared.clock.ticks(SUSPECT),
            first_report: shared.clock.ticks(FIRST_REPORT),
            activity: 0,
            active_at: now,
            flushed_at: now,
            stalled: 0,
            mood: Mood::Awake,
            shared,
            pulse,
            rescuer,
        }
    }

    /// Watches until the alarm is closed; then ends the other threads.
    pub(crate) fn run(mut self) {
        self.shared.inbox.flush();
        while !self.shared.alarm.is_closed() {
            self.tick();
            self.pause();
        }
        self.rescuer.close();
        self.shared.inbox.close();
    }

    fn tick(&mut self) {
        self.pulse.ticks.store(self.pulse.ticks() + 1, Ordering::Relaxed);
        let look = self.look();
        if look.suspects {
            self.rescuer.wake();
        }
        let now = Instant::now();
        let sounded = self.mood != Mood::Awake && !self.shared.alarm.is_armed();
        if sounded || look.polling || look.activity != self.activity {
            self.active_at = now;
        }
        self.activity = look.activity;
        self.settle(now);
        // The gauges of stalls in progress rise at once, and what was counted last goes over before sleep.
        let news = look.stalled > self.stalled || self.mood == Mood::Drowsy;
        self.stalled = look.stalled;
        let due = if self.mood == Mood::Asleep { BEAT } else { FLUSH };
        if news || now.saturating_duration_since(self.flushed_at) >= due {
            self.flushed_at = now;
            self.shared.inbox.flush();
        }
    }

    fn look(&self) -> Look {
        let mut look = Look::default();
        let threshold = self.shared.threshold();
        for lane in self.shared.lanes.iter() {
            look.activity = look.activity.wrapping_add(lane.slot.activity());
        }
        for (lane, poll, age) in self.shared.polling() {
            look.polling = true;
            look.suspects |= age >= self.suspect;
            if age > threshold {
                look.stalled += 1;
                self.report_if_due(lane, poll, age);
            }
        }
        look
    }

    fn report_if_due(&self, lane: &Lane, poll: Poll, age: u64) {
        let watched = &lane.watched;
        if watched.poll.load(Ordering::Relaxed) != poll.start {
            watched.poll.store(poll.start, Ordering::Relaxed);
            watched.report_age.store(self.first_report.max(self.shared.threshold()), Ordering::Relaxed);
        }
        let due = watched.report_age.load(Ordering::Relaxed);
        if age < due {
            return;
        }
        // Past several doublings at once, as after a suspension, it is one report.
        let next = std::iter::successors(Some(due), |due| due.checked_mul(2)).find(|&due| due > age);
        watched.report_age.store(next.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.shared.inbox.sighting(Sighting::of(&self.shared, lane, poll, age));
    }

    /// Goes to sleep in two steps after a quiet time, and wakes when there is something to see.
    fn settle(&mut self, now: Instant) {
        let quiet = now.saturating_duration_since(self.active_at) >= QUIET;
        self.mood = match (quiet, self.mood) {
            (false, _) => Mood::Awake,
            (true, Mood::Awake) => Mood::Drowsy,
            (true, _) => Mood::Asleep,
        };
        if self.mood == Mood::Drowsy {
            self.shared.alarm.arm();
        } else if self.mood == Mood::Awake {
            self.shared.alarm.disarm();
        }
    }

    fn pause(&self) {
        let pause = if self.mood == Mood::Asleep { BEAT } else { self.period() };
        let before = Instant::now();
        std::thread::park_timeout(pause);
        // One that was unparked early is not late.
        let late = before.elapsed().checked_sub(pause).unwrap_or_default();
        if late > Duration::ZERO {
            self.pulse.late.add(&self.bounds, self.shared.clock.ticks(late));
        }
    }

    /// A fraction of the threshold, so that short thresholds are seen in time too.
    fn period(&self) -> Duration {
        let threshold = self.shared.clock.duration(self.shared.threshold());
        (threshold / 4).clamp(SHORTEST_TICK, LONGEST_TICK)
    }
}
