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
/// The shortest pause where a poll is about to become a stall.
const SHORTEST_PAUSE: Duration = Duration::from_micros(500);
/// What is seen so much later than it might be is seen for sure.
const MOMENT: Duration = Duration::from_micros(50);
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
    /// When the next poll becomes a stall, in ticks.
    next_stall: u64,
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
    /// When the next poll becomes a stall, in ticks.
    next_stall: u64,
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
            next_stall: u64::MAX,
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
        self.next_stall = look.next_stall;
        let due = if self.mood == Mood::Asleep { BEAT } else { FLUSH };
        let captured = self.examiner.take_captured();
        if news || now.saturating_duration_since(self.flushed_at) >= due {
            self.flushed_at = now;
            self.shared.inbox.flush();
        } else if captured && (look.stalled > 0 || self.shared.captures.is_scarce()) {
            // Stacks of polls that are no stalls yet wait until they are, if there is room.
            self.shared.inbox.captured();
        }
    }

    fn look(&mut self) -> Look {
        let mut look = Look { next_stall: u64::MAX, ..Look::default() };
        let shared = &self.shared;
        let (rescue, threshold) = (shared.clock.ticks(SUSPECT), shared.threshold());
        for lane in shared.lanes.iter() {
            look.activity = look.activity.wrapping_add(lane.slot.activity());
        }
        for (lane, poll, age) in shared.polling() {
            look.polling = true;
            look.suspects |= age >= rescue;
            if age <= threshold {
                look.next_stall = look.next_stall.min(poll.start.saturating_add(threshold));
            }
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

    fn period(&self) -> Duration {
        let (clock, threshold) = (&self.shared.clock, self.shared.threshold());
        let left = self.next_stall.saturating_sub(clock.now()).min(threshold);
        period(clock.duration(threshold), clock.duration(left))
    }
}

/// The pause after a look: a fraction of the threshold, so that short thresholds are seen in time too, and hardly longer than `left`, until
/// a poll becomes a stall.
fn period(threshold: Duration, left: Duration) -> Duration {
    (threshold / 4).clamp(SHORTEST_TICK, LONGEST_TICK).min((left + MOMENT).max(SHORTEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_look_is_soon_and_right_after_the_next_stall() {
        let micros = Duration::from_micros;
        assert_eq!(period(micros(25_000), micros(25_000)), LONGEST_TICK);
        assert_eq!(period(micros(25_000), micros(2_000)), micros(2_000) + MOMENT);
        assert_eq!(period(micros(8_000), micros(8_000)), micros(2_000));
        assert_eq!(period(micros(1_000), micros(1_000)), SHORTEST_TICK);
        assert_eq!(period(micros(1_000), micros(0)), SHORTEST_PAUSE);
    }
}
