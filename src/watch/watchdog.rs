//! The watchdog's thread: reads slots, and nothing else.
//!
//! It neither allocates nor takes a lock, so that no polling thread can hold it up, whatever lock that thread stalls with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Rescuer;
use super::driver::SUSPECT;
use super::examiner::Examiner;
use super::health::Health;
use super::workers::Workers;
use crate::cells::{Bounds, Histogram, Samples};
use crate::shared::Shared;
use crate::stacks::Capturer;
use crate::sync::{AtomicU64, Ordering};

/// The longest pause between two looks while something is polled.
pub(super) const LONGEST_TICK: Duration = Duration::from_millis(5);
const SHORTEST_TICK: Duration = Duration::from_millis(1);
/// How long nothing must have been polled before the watchdog sleeps.
const QUIET: Duration = Duration::from_millis(100);
/// The pause between two looks while it sleeps.
const BEAT: Duration = Duration::from_secs(1);
/// How often cells are flushed while something is polled; else with each beat.
const FLUSH: Duration = Duration::from_millis(250);

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
    examiner: Examiner,
    workers: Workers,
    health: Health,
    bounds: Bounds,
    /// Sum of the lanes' activity at the last look.
    activity: u64,
    active_at: Instant,
    flushed_at: Instant,
    woken_at: Instant,
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
    pub(crate) fn new(shared: Arc<Shared>, pulse: Arc<Pulse>, rescuer: Rescuer, capturer: Capturer) -> Self {
        let now = Instant::now();
        Self {
            bounds: shared.bounds.clone(),
            examiner: Examiner::new(Arc::clone(&shared), capturer),
            workers: Workers::new(Arc::clone(&shared)),
            health: Health::new(),
            activity: 0,
            active_at: now,
            flushed_at: now,
            woken_at: now,
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
        let looked = self.shared.clock.now();
        self.examiner.collect();
        let look = self.look();
        self.shared.set_looked(looked);
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

    fn look(&mut self) -> Look {
        let mut look = Look::default();
        let shared = &self.shared;
        let rescue = shared.clock.ticks(SUSPECT);
        for lane in shared.lanes.iter() {
            look.activity = look.activity.wrapping_add(lane.slot.activity());
        }
        for (lane, poll, age) in shared.polling() {
            look.polling = true;
            look.suspects |= age >= rescue;
            self.examiner.examine(lane, poll, age);
        }
        look.polling |= self.workers.look(&mut self.examiner);
        look.stalled = shared.stalled().count();
        look
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

    fn pause(&mut self) {
        let pause = if self.mood == Mood::Asleep { BEAT } else { self.period() };
        let before = Instant::now();
        std::thread::park_timeout(pause);
        // One that was unparked early is not late.
        let late = before.elapsed().checked_sub(pause).unwrap_or_default();
        if late > Duration::ZERO {
            self.pulse.late.add(&self.bounds, self.shared.clock.ticks(late));
        }
        // What kept it from running may have done so in the middle of a look, too.
        let since = std::mem::replace(&mut self.woken_at, Instant::now());
        self.health.note(&self.shared, since.elapsed().saturating_sub(pause));
    }

    /// A fraction of the threshold, so that short thresholds are seen in time too.
    fn period(&self) -> Duration {
        let threshold = self.shared.clock.duration(self.shared.threshold());
        (threshold / 4).clamp(SHORTEST_TICK, LONGEST_TICK)
    }
}
