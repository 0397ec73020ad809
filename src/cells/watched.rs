//! What the watching threads note about the poll of a thread, each note by the poll's start.

use std::time::Duration;

use crate::evidence::{Evidence, Look};
use crate::os::Call;
use crate::sync::{AtomicU64, Ordering};

/// The notes on one thread. The watchdog writes them, but for those that say otherwise; anybody reads them.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// The poll whose next report is due at `report_age`, in ticks.
    poll: AtomicU64,
    report_age: AtomicU64,
    /// The ages at which a stack of it running and one asleep are due next, in ticks.
    capture_ages: [AtomicU64; 2],
    /// The last poll during which the I/O driver was seen to stand still. The rescuer's.
    pub(crate) starved: AtomicU64,
    /// The last poll during which the I/O driver was taken over after a nudge. The rescuer's.
    pub(crate) rescued: AtomicU64,
    /// The last poll that gave its worker away. The reporter's, too.
    handed_off: AtomicU64,
    /// What the worker's counters said at the first look.
    worker_then: [AtomicU64; 2],
    looks: Looks,
}

/// What was seen of one poll. Times are in nanoseconds.
#[derive(Debug, Default)]
struct Looks {
    /// The poll. Written last at its first look, so that the rest belongs to it.
    poll: AtomicU64,
    first_at: AtomicU64,
    last_at: AtomicU64,
    cpu_then: AtomicU64,
    cpu_spent: AtomicU64,
    waited_then: AtomicU64,
    waited: AtomicU64,
    /// Time between looks that both found it ready to run, and not run in between.
    stood: AtomicU64,
    was_asleep: AtomicU64,
    /// The call that leads, shifted so that 0 is none, and by how many looks.
    call: AtomicU64,
    votes: AtomicU64,
}

// === impl Watched ===

impl Watched {
    /// Whether the I/O driver was seen to stand still during the poll that began at `start`.
    pub(crate) fn is_starved(&self, start: u64) -> bool {
        get(&self.starved) == start
    }

    /// Whether the I/O driver was taken over after a nudge during the poll that began at `start`.
    pub(crate) fn is_rescued(&self, start: u64) -> bool {
        get(&self.rescued) == start
    }

    /// Whether the poll that began at `start` was seen to give its worker away.
    pub(crate) fn is_handed_off(&self, start: u64) -> bool {
        get(&self.handed_off) == start
    }

    pub(crate) fn hand_off(&self, start: u64) {
        set(&self.handed_off, start);
    }

    /// Begins the notes on a poll, unless they are on it already.
    pub(crate) fn begin(&self, start: u64, report_age: u64) {
        if get(&self.poll) != start {
            set(&self.poll, start);
            set(&self.report_age, report_age);
            self.capture_ages.iter().for_each(|age| set(age, 0));
        }
    }

    /// Whether a report is due; the next one is, once the age has doubled.
    pub(crate) fn take_report(&self, age: u64) -> bool {
        let due = get(&self.report_age);
        if age < due {
            return false;
        }
        // Past several doublings at once, as after a suspension, it is one report.
        let next = std::iter::successors(Some(due), |due| due.checked_mul(2)).find(|&due| due > age);
        set(&self.report_age, next.unwrap_or(u64::MAX));
        true
    }

    /// Whether a stack is due of a thread that is asleep, or else runs. Each kind by itself: which of the two the cause is comes out
    /// at the end.
    pub(crate) fn is_capture_due(&self, age: u64, asleep: bool) -> bool {
        age >= get(&self.capture_ages[usize::from(asleep)])
    }

    /// Notes that a stack was taken, or that there is none to be had of this kind, and at which age the next is due.
    pub(crate) fn captured(&self, asleep: bool, next: u64) {
        set(&self.capture_ages[usize::from(asleep)], next);
    }

    /// Notes a look at the poll that began at `start`, with the counters of its worker: how often it was parked or unparked, and how
    /// long it was busy. They stand still while a poll holds it.
    pub(crate) fn note(&self, start: u64, look: &Look, worker: Option<[u64; 2]>) {
        if get(&self.looks.poll) != start {
            self.looks.begin(start, look);
            let worker = worker.unwrap_or_default();
            for (then, now) in self.worker_then.iter().zip(worker) {
                set(then, now);
            }
            // An odd number of parks and unparks: it is parked, which it could not be inside a poll.
            if worker[0] % 2 == 1 {
                self.hand_off(start);
            }
        } else {
            self.looks.go_on(look);
            let has_moved = |now: [u64; 2]| self.worker_then.iter().zip(now).any(|(then, now)| get(then) != now);
            if worker.is_some_and(has_moved) {
                self.hand_off(start);
            }
        }
    }

    /// How the poll that began at `start` spent its time up to the last look.
    pub(crate) fn evidence(&self, start: u64) -> Option<Evidence> {
        let evidence = self.looks.evidence(start)?;
        Some(Evidence { handed_off: self.is_handed_off(start), ..evidence })
    }

    /// The same up to now, with what the thread says of itself.
    pub(crate) fn evidence_at_end(
        &self,
        start: u64,
        at: Duration,
        cpu: Duration,
        waited: Duration,
    ) -> Option<Evidence> {
        let evidence = self.looks.evidence_at_end(start, nanos(at), nanos(cpu), nanos(waited))?;
        Some(Evidence { handed_off: self.is_handed_off(start), ..evidence })
    }
}

// === impl Looks ===

impl Looks {
    fn begin(&self, start: u64, look: &Look) {
        set(&self.poll, 0);
        for (cell, value) in [
            (&self.first_at, nanos(look.at)),
            (&self.last_at, nanos(look.at)),
            (&self.cpu_then, nanos(look.cpu)),
            (&self.waited_then, nanos(look.waited)),
            (&self.cpu_spent, 0),
            (&self.waited, 0),
            (&self.stood, 0),
            (&self.was_asleep, u64::from(look.asleep_in.is_some())),
            (&self.call, encode(look.asleep_in)),
            (&self.votes, 1),
        ] {
            set(cell, value);
        }
        // Release, the partner of the Acquire in `is_of`.
        self.poll.store(start, Ordering::Release);
    }

    fn go_on(&self, look: &Look) {
        let since = nanos(look.at).saturating_sub(get(&self.last_at));
        let cpu = nanos(look.cpu).saturating_sub(get(&self.cpu_then));
        let has_run = cpu > get(&self.cpu_spent);
        let is_asleep = look.asleep_in.is_some();
        if !is_asleep && !has_run && get(&self.was_asleep) == 0 {
            set(&self.stood, get(&self.stood) + since);
        }
        set(&self.cpu_spent, cpu);
        set(&self.waited, nanos(look.waited).saturating_sub(get(&self.waited_then)));
        set(&self.was_asleep, u64::from(is_asleep));
        set(&self.last_at, nanos(look.at));
        self.vote(look.asleep_in);
    }

    /// Boyer and Moore's vote: a call that more than half of the looks found wins.
    fn vote(&self, asleep_in: Option<Call>) {
        let (call, votes) = (encode(asleep_in), get(&self.votes));
        if call == 0 {
            return;
        }
        if get(&self.call) == call {
            set(&self.votes, votes + 1);
        } else if votes <= 1 || get(&self.call) == 0 {
            set(&self.call, call);
            set(&self.votes, 1);
        } else {
            set(&self.votes, votes - 1);
        }
    }

    fn is_of(&self, start: u64) -> bool {
        self.poll.load(Ordering::Acquire) == start
    }

    fn evidence(&self, start: u64) -> Option<Evidence> {
        self.is_of(start).then(|| self.sum(get(&self.last_at), get(&self.cpu_spent), get(&self.waited)))
    }

    fn evidence_at_end(&self, start: u64, at: u64, cpu: u64, waited: u64) -> Option<Evidence> {
        self.is_of(start).then(|| {
            let cpu = cpu.saturating_sub(get(&self.cpu_then));
            self.sum(at, cpu, waited.saturating_sub(get(&self.waited_then)))
        })
    }

    fn sum(&self, at: u64, cpu: u64, waited: u64) -> Evidence {
        Evidence {
            wall: Duration::from_nanos(at.saturating_sub(get(&self.first_at))),
            cpu: Duration::from_nanos(cpu),
            // Some kernels' account leaves out what the CPU quota took.
            waiting: Duration::from_nanos(waited.max(get(&self.stood))),
            call: decode(get(&self.call)),
            handed_off: false,
        }
    }
}

fn encode(call: Option<Call>) -> u64 {
    call.map_or(0, |call| u64::from(call.0.max(-1).wrapping_add(2).unsigned_abs()))
}

fn decode(call: u64) -> Option<Call> {
    let shifted = i32::try_from(call.checked_sub(1)?).ok()?;
    Some(Call(shifted - 1))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn get(cell: &AtomicU64) -> u64 {
    cell.load(Ordering::Relaxed)
}

fn set(cell: &AtomicU64, value: u64) {
    cell.store(value, Ordering::Relaxed);
}

#[cfg(all(test, not(tower_stall_loom)))]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn look(at: u64, cpu: u64, waited: u64, call: Option<i32>) -> Look {
        Look { at: millis(at), cpu: millis(cpu), waited: millis(waited), asleep_in: call.map(Call) }
    }

    #[test]
    fn time_is_split_into_running_waiting_and_asleep() {
        let watched = Watched::default();
        assert_eq!(watched.evidence(7), None);
        watched.note(7, &look(100, 50, 1, Some(230)), None);
        watched.note(7, &look(120, 55, 4, None), None);
        let seen = watched.evidence(7).unwrap();
        assert_eq!((seen.wall, seen.cpu, seen.waiting, seen.asleep()), (millis(20), millis(5), millis(3), millis(12)));
        assert_eq!(seen.call, Some(Call(230)));
        let end = watched.evidence_at_end(7, millis(130), millis(65), millis(4)).unwrap();
        assert_eq!((end.wall, end.cpu, end.asleep()), (millis(30), millis(15), millis(12)));
        assert_eq!(watched.evidence(8), None, "another poll");
        watched.note(8, &look(200, 66, 9, None), None);
        assert_eq!(watched.evidence(8), Some(Evidence::default()));
    }

    #[test]
    fn a_thread_that_is_ready_and_never_runs_waits() {
        let watched = Watched::default();
        for at in 0..5 {
            watched.note(7, &look(at * 10, 3, 0, None), None);
        }
        assert_eq!(watched.evidence(7).unwrap().waiting, millis(40));
    }

    #[test]
    fn the_call_of_most_looks_wins_and_page_faults_are_no_call() {
        let watched = Watched::default();
        for (at, call) in [Some(0), Some(7), None, Some(7), Some(7)].into_iter().enumerate() {
            watched.note(7, &look(at as u64, 0, 0, call), None);
        }
        assert_eq!(watched.evidence(7).unwrap().call, Some(Call(7)));
        for call in [-1, 0, 1, 462] {
            assert_eq!(decode(encode(Some(Call(call)))), Some(Call(call)));
        }
        assert_eq!(decode(encode(None)), None);
    }

    #[test]
    fn a_worker_whose_counters_move_was_given_away() {
        let watched = Watched::default();
        watched.note(7, &look(0, 0, 0, None), Some([4, 100]));
        watched.note(7, &look(5, 0, 0, None), Some([4, 100]));
        assert!(!watched.is_handed_off(7));
        watched.note(7, &look(10, 0, 0, None), Some([5, 100]));
        assert!(watched.evidence(7).unwrap().handed_off);
        watched.note(8, &look(20, 0, 0, None), Some([6, 100]));
        assert!(!watched.is_handed_off(8));
        watched.note(9, &look(30, 0, 0, None), Some([7, 100]));
        assert!(watched.is_handed_off(9), "a parked worker polls nothing");
    }

    #[test]
    fn stacks_running_and_asleep_are_due_each_by_itself() {
        let watched = Watched::default();
        let is_due = |age| [false, true].map(|asleep| watched.is_capture_due(age, asleep));
        watched.begin(7, 100);
        assert_eq!(is_due(20), [true, true]);
        watched.captured(true, 40);
        assert_eq!(is_due(25), [true, false]);
        watched.captured(false, 50);
        assert_eq!([39, 40, 50].map(is_due), [[false, false], [false, true], [true, true]]);
        watched.begin(8, 100);
        assert_eq!(is_due(20), [true, true], "another poll");
    }

    #[test]
    fn reports_are_due_at_each_doubling_and_once_past_several() {
        let watched = Watched::default();
        watched.begin(7, 100);
        let reports: Vec<_> = [99, 100, 150, 200, 900, 901].map(|age| watched.take_report(age)).into();
        assert_eq!(reports, [false, true, false, true, true, false]);
        watched.begin(7, 100);
        assert!(!watched.take_report(1_500), "it begins once for each poll");
    }
}
