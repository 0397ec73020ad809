use super::*;
use crate::os::{BlockedIn, Syscall, Tid};

const LIMITS: WorkerLimits = WorkerLimits {
    suspect: 5,
    blocked: 25,
    running: 500,
    running_beside_idle: 200,
    batch: 1_500,
    batch_time: Duration::from_millis(1_500),
};

/// Builds a sample of a thread that is blocked, or of one that runs.
fn sample(state: ThreadState, timeslices: u64) -> Option<WorkerSample> {
    let stat = SchedStat { run_delay: Some(Duration::ZERO), timeslices };
    let sample = ThreadSample {
        thread: Tid(1),
        at: Duration::ZERO,
        cpu: Duration::ZERO,
        run_delay: Some(Duration::ZERO),
        blocked_in: None,
    };
    Some(WorkerSample { observed: (state, stat), sample })
}

fn blocked(timeslices: u64) -> Option<WorkerSample> {
    let blocked = BlockedIn { syscall: Syscall(230), arg0: 0, sp: 1, pc: 2 };
    sample(ThreadState::Blocked(blocked), timeslices)
}

fn running() -> Option<WorkerSample> {
    sample(ThreadState::Running, 1)
}

/// Builds a sample of a thread that runs at `now`, and has waited for a core for `run_delay`.
fn running_at(now: u64, run_delay: u64) -> Option<WorkerSample> {
    let WorkerSample { observed, sample } = running()?;
    let (at, run_delay) = (Duration::from_millis(now), Duration::from_millis(run_delay));
    Some(WorkerSample {
        observed,
        sample: ThreadSample { at, run_delay: Some(run_delay), ..sample },
    })
}

fn activity(counters: [u64; 2], polls: u64) -> WorkerActivity {
    WorkerActivity { counters, polls, own_polls: 0 }
}

/// Creates the state of a worker that was active at 0 for the last time.
fn inactive() -> WorkerState {
    let mut state = WorkerState::default();
    let made = |progress| matches!(progress, Progress::Made { .. });
    assert!(made(state.progress(activity([2, 100], 1), false, LIMITS, 0)));
    assert!(!made(state.progress(activity([2, 100], 1), false, LIMITS, 1)));
    state
}

/// What a test expects of a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Wait,
    Occupied(u64),
    Still,
    Free,
}

/// Feeds samples, as far as they are due, and returns the transitions.
fn transitions(
    state: &mut WorkerState,
    samples: impl IntoIterator<Item = (u64, Option<WorkerSample>)>,
) -> Vec<(u64, Seen)> {
    let (mut transitions, mut is_occupied) = (Vec::new(), false);
    for (now, sample) in samples {
        if !state.is_sample_due(now) {
            continue;
        }
        let seen = match state.next(sample, is_occupied, LIMITS, now) {
            Transition::Wait => Seen::Wait,
            Transition::Occupied { since, .. } => Seen::Occupied(since),
            Transition::StillOccupied => Seen::Still,
            Transition::Free => Seen::Free,
        };
        is_occupied = matches!(seen, Seen::Occupied(_) | Seen::Still);
        transitions.push((now, seen));
    }
    transitions
}

fn first_occupied(state: &mut WorkerState, sample: Option<WorkerSample>) -> Option<(u64, Seen)> {
    let seen = transitions(state, (0..2_000).map(|now| (now, sample)));
    seen.into_iter().find(|(_, seen)| matches!(seen, Seen::Occupied(_)))
}

/// Returns what the next progress of a worker means.
fn may_be_batch(state: &mut WorkerState, counters: [u64; 2], now: u64) -> bool {
    match state.progress(activity(counters, 1), false, LIMITS, now) {
        Progress::Made { may_be_batch, .. } => may_be_batch,
        Progress::None => panic!("no progress"),
    }
}

#[test]
fn a_blocked_worker_is_occupied_once_it_exceeds_the_threshold() {
    let samples = [2, 5, 20, 30, 31, 40].map(|now| (now, blocked(1)));
    let expected = [
        (5, Seen::Wait),
        (20, Seen::Wait),
        (30, Seen::Wait),
        (31, Seen::Occupied(5)),
        (40, Seen::Still),
    ];
    assert_eq!(transitions(&mut inactive(), samples), expected);
}

#[test]
fn a_worker_that_was_on_cpu_between_two_samples_is_not_occupied() {
    let samples = [(5, blocked(1)), (20, blocked(2)), (31, blocked(2)), (46, blocked(2))];
    let expected = [(5, Seen::Wait), (20, Seen::Wait), (31, Seen::Wait), (46, Seen::Occupied(20))];
    assert_eq!(transitions(&mut inactive(), samples), expected);
}

#[test]
fn an_occupied_worker_that_resumes_is_free() {
    let samples = [(5, blocked(1)), (40, blocked(1)), (45, running()), (46, running())];
    let expected = [(5, Seen::Wait), (40, Seen::Occupied(5)), (45, Seen::Free)];
    let seen = transitions(&mut inactive(), samples);
    assert_eq!(seen, expected, "the next sample is due at 50");
}

#[test]
fn a_running_worker_is_sampled_at_each_doubling_and_believed_late() {
    let seen = transitions(&mut inactive(), (0..502).map(|now| (now, running())));
    let doublings = [5, 10, 20, 40, 80, 160, 200, 400].map(|now| (now, Seen::Wait));
    assert_eq!(seen[..8], doublings);
    assert_eq!(seen[8..], [(500, Seen::Occupied(0)), (501, Seen::Still)]);
}

#[test]
fn a_running_worker_beside_a_parked_one_is_believed_sooner() {
    let mut state = inactive();
    let is_believed = |now: &u64| {
        state.set_idle_neighbor(true, *now);
        let is_due = state.is_sample_due(*now);
        is_due && matches!(state.next(running(), false, LIMITS, *now), Transition::Occupied { .. })
    };
    assert_eq!((2..1_000).find(is_believed), Some(200));
}

#[test]
fn a_worker_whose_thread_is_not_known_is_believed_like_a_running_one() {
    assert_eq!(first_occupied(&mut inactive(), None), Some((500, Seen::Occupied(0))));
}

#[test]
fn a_running_worker_whose_counters_change_without_a_park_may_have_run_a_batch() {
    let mut state = inactive();
    assert!(may_be_batch(&mut state, [2, 600], 600), "61 polls");
    assert!(!may_be_batch(&mut state, [3, 900], 900), "it has parked");
    assert!(!may_be_batch(&mut state, [3, 2_401], 2_401), "too long for a batch without a stall");
}

#[test]
fn a_worker_that_polls_another_task_after_long_beside_a_parked_one_has_run_one_poll() {
    for (idle_neighbor_at, counters, expected) in
        [(0, [2, 100], true), (199, [2, 100], true), (200, [2, 100], false), (200, [2, 600], true)]
    {
        let mut state = inactive();
        state.set_idle_neighbor(true, idle_neighbor_at);
        state.set_idle_neighbor(false, 500);
        let progress = state.progress(activity(counters, 2), false, LIMITS, 600);
        let is_batch = matches!(progress, Progress::Made { may_be_batch: true, .. });
        assert_eq!(is_batch, expected, "{idle_neighbor_at} {counters:?}");
    }
}

#[test]
fn a_worker_that_was_blocked_has_not_run_a_batch() {
    let mut state = inactive();
    transitions(&mut state, [5, 31, 40].map(|now| (now, blocked(1))));
    assert!(state.is_beyond_doubt(LIMITS, 40));
    assert!(!may_be_batch(&mut state, [2, 600], 600));
}

#[test]
fn a_running_worker_is_beyond_doubt_once_no_batch_explains_it() {
    let mut state = inactive();
    transitions(&mut state, [5, 1_505].map(|now| (now, running_at(now, 0))));
    assert!(!state.is_beyond_doubt(LIMITS, 2_000));
    transitions(&mut state, [(1_506, running_at(1_506, 0))]);
    assert!(state.is_beyond_doubt(LIMITS, 2_000));
}

#[test]
fn the_time_in_the_run_queue_does_not_speak_against_a_batch() {
    let mut state = inactive();
    transitions(&mut state, [(5, running_at(5, 100)), (3_000, running_at(3_000, 1_700))]);
    assert!(!state.is_beyond_doubt(LIMITS, 3_000));
    assert!(may_be_batch(&mut state, [2, 3_000], 3_001));
}

#[test]
fn a_worker_whose_thread_is_not_known_is_beyond_doubt_by_the_time_alone() {
    let state = inactive();
    assert!(!state.is_beyond_doubt(LIMITS, 1_500));
    assert!(state.is_beyond_doubt(LIMITS, 1_501));
}

#[test]
fn any_activity_starts_over() {
    let mut state = inactive();
    transitions(&mut state, [(5, blocked(1)), (20, blocked(1))]);
    let progress = state.progress(activity([2, 100], 2), false, LIMITS, 24);
    assert!(matches!(progress, Progress::Made { blocked_in: Some(_), .. }), "{progress:?}");
    let seen = transitions(&mut state, [(28, blocked(1)), (31, blocked(1))]);
    assert_eq!(seen, [(31, Seen::Wait)], "blocked since 31");
    let progress = state.progress(activity([2, 100], 2), true, LIMITS, 60);
    assert!(matches!(progress, Progress::Made { .. }), "parked, or inside a measured poll");
}

#[test]
fn on_a_runtime_of_many_workers_a_running_one_is_believed_later() {
    let clock = Clock::Manual(std::sync::Arc::default());
    let running = |workers| WorkerLimits::new(&clock, 5, 25_000_000, workers).running;
    assert_eq!([1, 8, 64].map(running), [500_000_000, 500_000_000, 4_000_000_000]);
}

#[test]
fn a_batch_is_as_long_as_the_polls_between_two_updates_of_the_counters() {
    let clock = Clock::Manual(std::sync::Arc::default());
    let limits = WorkerLimits::new(&clock, 5, 25_000_000, 2);
    assert_eq!((limits.batch, limits.batch_time.as_millis()), (61 * 25_000_000, 61 * 25));
    assert_eq!((limits.blocked, limits.running_beside_idle), (25_000_000, 200_000_000));
}
