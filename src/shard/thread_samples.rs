//! The watchdog's samples of a thread inside a poll, summed as they are taken.

use std::time::Duration;

use super::time_breakdown::TimeBreakdown;
use crate::os::{Syscall, Tid, duration_nanos as nanos};
use crate::sync::{AtomicU64, Ordering};

/// One sample of a thread inside a poll.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadSample {
    pub(crate) thread: Tid,
    /// When it was taken, since an arbitrary moment.
    pub(crate) at: Duration,
    /// The CPU time that the thread has consumed since it started.
    pub(crate) cpu: Duration,
    /// The time that the thread has waited in the run queue since it started; only waits that have
    /// ended. `None` if the kernel does not tell.
    pub(crate) run_delay: Option<Duration>,
    /// The system call that the thread is blocked in, if it is, or may be.
    pub(crate) blocked_in: Option<Syscall>,
}

const UNKNOWN: u64 = u64::MAX;

/// The samples of one poll. A seqlock: the watchdog writes, any thread reads. Times are in
/// nanoseconds.
///
/// `poll` is the sequence word: 0 while the first sample of a poll is written. The later samples of
/// a poll do not change it. A reader may therefore see a part of the latest sample, whose values
/// are true of the poll, too; it never sees values of two polls.
#[derive(Debug, Default)]
pub(super) struct ThreadSamples {
    /// The poll's start.
    poll: AtomicU64,
    thread: AtomicU64,
    first_at: AtomicU64,
    last_at: AtomicU64,
    first_cpu: AtomicU64,
    cpu: AtomicU64,
    /// `UNKNOWN` until the kernel has told.
    first_run_delay: AtomicU64,
    run_delay: AtomicU64,
    /// The time on-CPU and in the run queue between the sample before the first one and the first
    /// one.
    cpu_before: AtomicU64,
    run_delay_before: AtomicU64,
    /// The time between two samples that both found the thread runnable, in which it was not on-CPU:
    /// with the kernel's statistics of the run queue, only if it did not run at all between them.
    runnable: AtomicU64,
    /// The time since the thread last ran, as far as it was runnable, for which the kernel does not
    /// account yet.
    waiting: AtomicU64,
    /// Whether the thread is still waiting in the run queue as it was at the first sample.
    is_first_wait: AtomicU64,
    was_blocked: AtomicU64,
    /// The candidate of the majority vote, encoded so that 0 is none, and its votes.
    syscall: AtomicU64,
    votes: AtomicU64,
}

impl ThreadSamples {
    /// Returns whether the samples are of the poll that began at `start`.
    pub(super) fn is_of(&self, start: u64) -> bool {
        // Acquire: pairs with the last Release in `begin`.
        self.poll.load(Ordering::Acquire) == start
    }

    /// Records the first sample of a poll.
    pub(super) fn begin(&self, start: u64, sample: &ThreadSample) {
        let [cpu_before, run_delay_before] = self.since_last(sample);
        self.poll.store(0, Ordering::Relaxed);
        for (word, value) in [
            (&self.thread, sample.thread.0),
            (&self.cpu_before, cpu_before),
            (&self.run_delay_before, run_delay_before),
            (&self.first_at, nanos(sample.at)),
            (&self.last_at, nanos(sample.at)),
            (&self.first_cpu, nanos(sample.cpu)),
            (&self.first_run_delay, sample.run_delay.map_or(UNKNOWN, nanos)),
            (&self.cpu, 0),
            (&self.run_delay, 0),
            (&self.runnable, 0),
            (&self.waiting, 0),
            (&self.is_first_wait, u64::from(sample.blocked_in.is_none())),
            (&self.was_blocked, u64::from(sample.blocked_in.is_some())),
            (&self.syscall, encode(sample.blocked_in)),
            (&self.votes, 1),
        ] {
            // Release: pairs with the Acquire in `get`. A reader that sees the new value also sees
            // that `poll` has changed.
            word.store(value, Ordering::Release);
        }
        // Release: pairs with the Acquire in `is_of`.
        self.poll.store(start, Ordering::Release);
    }

    /// Records a further sample of the same poll.
    pub(super) fn add(&self, sample: &ThreadSample) {
        let elapsed = nanos(sample.at).saturating_sub(get(&self.last_at));
        let cpu = nanos(sample.cpu).saturating_sub(get(&self.first_cpu));
        if let (Some(now), UNKNOWN) = (sample.run_delay, get(&self.first_run_delay)) {
            set(&self.first_run_delay, nanos(now));
        }
        let run_delay = self.run_delay_at(sample);
        let ran_for = cpu.saturating_sub(get(&self.cpu));
        let has_run = ran_for > 0 || run_delay > get(&self.run_delay);
        let is_blocked = sample.blocked_in.is_some();
        if is_blocked || has_run {
            set(&self.waiting, 0);
            set(&self.is_first_wait, 0);
        } else if get(&self.was_blocked) == 0 {
            set(&self.waiting, get(&self.waiting) + elapsed);
        }
        let was_runnable = !is_blocked && get(&self.was_blocked) == 0;
        if was_runnable && (!has_run || sample.run_delay.is_none()) {
            set(&self.runnable, get(&self.runnable) + elapsed.saturating_sub(ran_for));
        }
        set(&self.cpu, cpu);
        set(&self.run_delay, run_delay);
        set(&self.was_blocked, u64::from(is_blocked));
        set(&self.last_at, nanos(sample.at));
        self.vote(sample.blocked_in);
    }

    /// Boyer–Moore majority vote: finds the system call of more than half of the blocked samples.
    /// Without a majority the result is one of the calls that were seen.
    fn vote(&self, blocked_in: Option<Syscall>) {
        let (syscall, votes) = (encode(blocked_in), get(&self.votes));
        if syscall == 0 {
            return;
        }
        if get(&self.syscall) == syscall {
            set(&self.votes, votes + 1);
        } else if votes <= 1 || get(&self.syscall) == 0 {
            set(&self.syscall, syscall);
            set(&self.votes, 1);
        } else {
            set(&self.votes, votes - 1);
        }
    }

    pub(super) fn breakdown(&self, start: u64) -> Option<TimeBreakdown> {
        self.read(start, || {
            let waiting = get(&self.waiting);
            let run_delay = get(&self.run_delay) + waiting;
            let mut breakdown = self.sum(get(&self.last_at), get(&self.cpu), run_delay);
            if waiting > 0 && get(&self.is_first_wait) == 1 {
                // The kernel tells the length of a wait when it ends.
                breakdown.max_run_delay_before = Duration::MAX;
            }
            breakdown
        })
    }

    /// Returns how the thread has spent the time up to `end`, a sample that it has taken itself. Of
    /// a poll without an earlier sample only the upper bounds are known.
    pub(super) fn breakdown_at_end(&self, start: u64, end: &ThreadSample) -> TimeBreakdown {
        self.sampled_until(start, end).unwrap_or_else(|| {
            let [cpu, run_delay] = self.since_last(end);
            TimeBreakdown {
                max_cpu_before: Duration::from_nanos(cpu),
                max_run_delay_before: Duration::from_nanos(run_delay),
                ..TimeBreakdown::default()
            }
        })
    }

    fn sampled_until(&self, start: u64, end: &ThreadSample) -> Option<TimeBreakdown> {
        self.read(start, || {
            let cpu = nanos(end.cpu).saturating_sub(get(&self.first_cpu));
            let run_delay = self.run_delay_at(end);
            self.sum(nanos(end.at), cpu, run_delay)
        })
    }

    /// Returns the time in the run queue from the first sample that knows it to `sample`.
    fn run_delay_at(&self, sample: &ThreadSample) -> u64 {
        match (sample.run_delay, get(&self.first_run_delay)) {
            (Some(_), UNKNOWN) => 0,
            (Some(now), first) => nanos(now).saturating_sub(first),
            (None, _) => get(&self.run_delay),
        }
    }

    /// Returns the time on-CPU and in the run queue since the last sample of the same thread, or
    /// since the thread started, in nanoseconds.
    fn since_last(&self, sample: &ThreadSample) -> [u64; 2] {
        let is_same_thread = get(&self.thread) == sample.thread.0;
        let since = |now: u64, first: &AtomicU64, since: &AtomicU64| {
            let first = get(first);
            let is_known = is_same_thread && first != UNKNOWN;
            now.saturating_sub(if is_known { first + get(since) } else { 0 })
        };
        let run_delay = sample.run_delay.map_or(0, nanos);
        [
            since(nanos(sample.cpu), &self.first_cpu, &self.cpu),
            since(run_delay, &self.first_run_delay, &self.run_delay),
        ]
    }

    /// Reads the samples if they are of the poll that began at `start`, before and after.
    fn read(&self, start: u64, read: impl FnOnce() -> TimeBreakdown) -> Option<TimeBreakdown> {
        let before = self.is_of(start);
        let breakdown = before.then(read)?;
        // Relaxed: the Acquire loads of `read` come before it.
        (self.poll.load(Ordering::Relaxed) == start).then_some(breakdown)
    }

    fn sum(&self, at: u64, cpu: u64, run_delay: u64) -> TimeBreakdown {
        TimeBreakdown {
            wall: Duration::from_nanos(at.saturating_sub(get(&self.first_at))),
            cpu: Duration::from_nanos(cpu),
            // Some kernels do not count time that the CPU quota took as run-queue time.
            run_delay: Duration::from_nanos(run_delay.max(get(&self.runnable))),
            max_cpu_before: Duration::from_nanos(get(&self.cpu_before)),
            max_run_delay_before: Duration::from_nanos(get(&self.run_delay_before)),
            syscall: decode(get(&self.syscall)),
            handed_off: false,
            stranded_for: None,
        }
    }
}

fn encode(syscall: Option<Syscall>) -> u64 {
    syscall.map_or(0, |syscall| u64::from(syscall.0.max(-2).wrapping_add(3).unsigned_abs()))
}

fn decode(encoded: u64) -> Option<Syscall> {
    let shifted = i32::try_from(encoded.checked_sub(1)?).ok()?;
    Some(Syscall(shifted - 2))
}

fn get(word: &AtomicU64) -> u64 {
    // Acquire: pairs with the Release in `begin` and `set`.
    word.load(Ordering::Acquire)
}

fn set(word: &AtomicU64, value: u64) {
    // Release: pairs with the Acquire in `get`.
    word.store(value, Ordering::Release);
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn sample(at: u64, cpu: u64, run_delay: u64, syscall: Option<i32>) -> ThreadSample {
        ThreadSample {
            thread: Tid(1),
            at: millis(at),
            cpu: millis(cpu),
            run_delay: Some(millis(run_delay)),
            blocked_in: syscall.map(Syscall),
        }
    }

    #[test]
    fn time_is_split_into_on_cpu_run_queue_and_off_cpu() {
        let samples = ThreadSamples::default();
        assert_eq!(samples.breakdown(7), None);
        samples.begin(7, &sample(100, 50, 1, Some(230)));
        samples.add(&sample(120, 55, 4, None));
        let seen = samples.breakdown(7).unwrap();
        assert_eq!((seen.wall, seen.cpu, seen.run_delay), (millis(20), millis(5), millis(3)));
        assert_eq!(seen.off_cpu(), millis(12));
        assert_eq!(seen.syscall, Some(Syscall(230)));
        let end = samples.breakdown_at_end(7, &sample(130, 65, 4, None));
        assert_eq!((end.wall, end.cpu, end.off_cpu()), (millis(30), millis(15), millis(12)));
        assert_eq!(samples.breakdown(8), None, "another poll");
        samples.begin(8, &sample(200, 66, 9, None));
        assert_eq!(samples.breakdown(8).unwrap().wall, Duration::ZERO);
    }

    #[test]
    fn the_sample_before_limits_what_a_thread_has_used_before_the_first_one() {
        let samples = ThreadSamples::default();
        let limits = |start| {
            let breakdown = samples.breakdown(start).unwrap();
            (breakdown.max_cpu_before, breakdown.max_run_delay_before)
        };
        samples.begin(7, &sample(100, 50, 1, None));
        assert_eq!(limits(7), (millis(50), millis(1)), "all since the thread started");
        samples.add(&sample(120, 55, 4, None));
        samples.begin(8, &sample(900, 58, 9, None));
        assert_eq!(limits(8), (millis(3), millis(5)));
        samples.begin(9, &ThreadSample { thread: Tid(2), ..sample(950, 60, 10, None) });
        assert_eq!(limits(9), (millis(60), millis(10)), "another thread");
    }

    #[test]
    fn a_runnable_thread_that_never_runs_waits_in_the_run_queue() {
        let samples = ThreadSamples::default();
        samples.begin(7, &sample(0, 3, 0, None));
        for at in 1..5 {
            samples.add(&sample(at * 10, 3, 0, None));
        }
        assert_eq!(samples.breakdown(7).unwrap().run_delay, millis(40));
    }

    #[test]
    fn where_the_kernel_does_not_tell_of_the_run_queue_a_runnable_thread_runs_or_waits() {
        let unknown =
            |at, cpu, syscall| ThreadSample { run_delay: None, ..sample(at, cpu, 0, syscall) };
        let samples = ThreadSamples::default();
        samples.begin(7, &unknown(0, 3, None));
        samples.add(&unknown(10, 7, None));
        samples.add(&unknown(20, 7, None));
        samples.add(&unknown(30, 8, Some(230)));
        samples.add(&unknown(40, 8, None));
        let seen = samples.breakdown(7).unwrap();
        assert_eq!((seen.cpu, seen.run_delay, seen.off_cpu()), (millis(5), millis(16), millis(19)));
    }

    #[test]
    fn what_the_kernel_does_not_tell_for_a_while_is_not_taken_for_a_wait() {
        let unknown = |at, cpu| ThreadSample { run_delay: None, ..sample(at, cpu, 0, Some(230)) };
        let samples = ThreadSamples::default();
        let run_delay = || samples.breakdown(7).unwrap().run_delay;
        samples.begin(7, &unknown(0, 3));
        samples.add(&sample(10, 3, 9_000, Some(230)));
        assert_eq!(run_delay(), millis(0), "since the thread started");
        samples.add(&sample(20, 3, 9_004, Some(230)));
        samples.add(&unknown(30, 3));
        assert_eq!(run_delay(), millis(4));
        assert_eq!(samples.breakdown_at_end(7, &sample(40, 3, 9_005, None)).run_delay, millis(5));
        assert_eq!(samples.breakdown_at_end(7, &unknown(40, 3)).run_delay, millis(4));
        samples.begin(8, &unknown(50, 3));
        let known_at_end = sample(60, 3, 9_006, None);
        assert_eq!(samples.breakdown_at_end(8, &known_at_end).run_delay, millis(0));
    }

    #[test]
    fn a_wait_in_the_run_queue_counts_before_it_ends_and_only_once() {
        let samples = ThreadSamples::default();
        samples.begin(7, &sample(0, 3, 0, None));
        let seen = |at, cpu, run_delay, syscall| {
            samples.add(&sample(at, cpu, run_delay, syscall));
            let seen = samples.breakdown(7).unwrap();
            (seen.run_delay, seen.max_run_delay_before == Duration::MAX)
        };
        assert_eq!(seen(10, 3, 0, None), (millis(10), true), "it may have begun before");
        assert_eq!(seen(20, 4, 24, None), (millis(24), false), "it has");
        assert_eq!(seen(30, 4, 24, None), (millis(34), false));
        assert_eq!(samples.breakdown_at_end(7, &sample(35, 5, 39, None)).run_delay, millis(39));
        assert_eq!(seen(40, 5, 39, None), (millis(39), false));
        assert_eq!(seen(50, 5, 39, Some(230)), (millis(39), false), "blocked");
    }

    #[test]
    fn one_sample_does_not_tell_a_running_thread_from_a_waiting_one() {
        let samples = ThreadSamples::default();
        samples.begin(7, &sample(100, 50, 1, None));
        assert_eq!(samples.breakdown(7).unwrap().max_run_delay_before, millis(1));
    }

    #[test]
    fn the_system_call_of_the_majority_wins() {
        let samples = ThreadSamples::default();
        samples.begin(7, &sample(0, 0, 0, Some(0)));
        for (at, syscall) in [(1, Some(7)), (2, None), (3, Some(7)), (4, Some(7))] {
            samples.add(&sample(at, 0, 0, syscall));
        }
        assert_eq!(samples.breakdown(7).unwrap().syscall, Some(Syscall(7)));
    }

    #[test]
    fn page_faults_and_system_calls_are_encoded_without_loss() {
        for number in [-2, -1, 0, 1, 462] {
            assert_eq!(decode(encode(Some(Syscall(number)))), Some(Syscall(number)));
        }
        assert_eq!(decode(encode(None)), None);
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use super::*;
    use ::loom::{sync::Arc, thread};

    fn sample(number: u64) -> ThreadSample {
        ThreadSample {
            thread: Tid(1),
            at: Duration::from_nanos(number),
            cpu: Duration::from_nanos(number),
            run_delay: Some(Duration::from_nanos(number)),
            blocked_in: None,
        }
    }

    /// The values of a poll's samples are derived from its start, so that a mix shows.
    #[test]
    fn loom_samples_of_two_polls_are_never_mixed() {
        ::loom::model(|| {
            let samples = Arc::new(ThreadSamples::default());
            samples.begin(10, &sample(10));
            let reader = {
                let samples = Arc::clone(&samples);
                thread::spawn(move || {
                    if let Some(read) = samples.sampled_until(10, &sample(100)) {
                        assert_eq!((read.wall.as_nanos(), read.cpu.as_nanos()), (90, 90));
                    }
                })
            };
            samples.begin(20, &sample(20));
            reader.join().unwrap();
        });
    }
}
