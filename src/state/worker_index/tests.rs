use std::cell::OnceCell;
use std::thread;

use tokio::runtime::Runtime;

use super::*;
use crate::state::tests::state_of;

/// If the import did not shadow the function of this module any more, nothing else would fail.
/// `./x oldest-tokio` sets the variable.
#[test]
fn tokio_names_the_worker_unless_it_is_too_old() {
    let is_old = std::env::var_os("TOWER_STALL_TEST_OLD_TOKIO").is_some();
    let is_unavailable = TokioWorkerIndex::of_current_thread() == TokioWorkerIndex::Unavailable;
    assert_eq!(is_unavailable, is_old);
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_time().build().unwrap()
}

#[test]
fn only_a_worker_that_has_not_handed_off_its_core_keeps_wakers() {
    let runtime = runtime();
    assert!(!keeps_wakers(), "outside the runtime");
    runtime.block_on(async {
        assert!(!keeps_wakers(), "on the thread of `block_on`");
        let task =
            tokio::spawn(async { (keeps_wakers(), tokio::task::block_in_place(keeps_wakers)) });
        assert_eq!(task.await.unwrap(), (true, false));
        let handle = Handle::current();
        let on_pool = move || (keeps_wakers(), handle.block_on(async { keeps_wakers() }));
        assert_eq!(tokio::task::spawn_blocking(on_pool).await.unwrap(), (false, false));
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        assert!(keeps_wakers());
        let handle = Handle::current();
        let on_pool = move || handle.block_on(async { keeps_wakers() });
        assert!(!tokio::task::spawn_blocking(on_pool).await.unwrap());
    });
}

/// Finds the worker of the thread that polls a task, beside another worker that is occupied.
async fn find(monitor: Arc<MonitorState>) -> (usize, TokioWorkerIndex) {
    for _ in 0..2_000 {
        let (thread, before) = (thread::current().id(), monitor.worker_counters());
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        if thread::current().id() == thread {
            if let Some(found) = monitor.find_worker(Some(&before), false) {
                return (found, TokioWorkerIndex::of_current_thread());
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the worker was not found");
}

#[test]
fn the_worker_that_is_found_is_the_one_that_tokio_names() {
    let runtime = runtime();
    let monitor = state_of(&runtime);
    let (release, released) = std::sync::mpsc::channel::<()>();
    let blocker = runtime.spawn(async move {
        let _ = released.recv();
        TokioWorkerIndex::of_current_thread()
    });
    for _ in 0..50 {
        let (found, named) = runtime.block_on(runtime.spawn(find(Arc::clone(&monitor)))).unwrap();
        if named != TokioWorkerIndex::Unavailable {
            assert_eq!(TokioWorkerIndex::Known(Some(found)), named);
        }
    }
    drop(release);
    runtime.block_on(blocker).unwrap();
}

thread_local! {
    static SHARD: OnceCell<Arc<Shard>> = const { OnceCell::new() };
}

/// Finds the worker of the current thread, and compares it with the one that tokio names:
/// whether it is the same, if it is found.
fn find_and_compare(monitor: &MonitorState) -> Option<bool> {
    let TokioWorkerIndex::Known(named) = TokioWorkerIndex::of_current_thread() else {
        return None;
    };
    let found = monitor.find_worker(None, true);
    SHARD.with(|shard| {
        let shard = shard.get_or_init(|| monitor.shards.lease());
        monitor.set_worker(shard, found, found.is_none());
    });
    Some(found == named).filter(|_| found.is_some())
}

/// Hands off its worker, sleeps and computes in turn.
async fn work(monitor: Arc<MonitorState>, task: u32) -> Vec<bool> {
    let mut comparisons = Vec::new();
    for round in 0..400 {
        if (round * 7 + task) % 5 == 0 {
            tokio::task::block_in_place(|| thread::sleep(Duration::from_micros(300)));
        } else if (round + task) % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        } else {
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(200) {}
            tokio::task::yield_now().await;
        }
        if keeps_wakers() {
            comparisons.extend(find_and_compare(&monitor));
        } else {
            tokio::task::yield_now().await;
        }
    }
    comparisons
}

/// A thread may become another worker before anything shows that it has handed off the first.
#[test]
fn a_wrong_worker_is_found_in_less_than_one_of_a_hundred_cases_while_workers_move() {
    let runtime = runtime();
    let monitor = state_of(&runtime);
    let spawn = |task| runtime.spawn(work(Arc::clone(&monitor), task));
    let tasks: Vec<_> = (0..8).map(spawn).collect();
    let comparisons: Vec<bool> =
        tasks.into_iter().flat_map(|task| runtime.block_on(task).unwrap()).collect();
    let wrong = comparisons.iter().filter(|is_right| !**is_right).count();
    if TokioWorkerIndex::of_current_thread() != TokioWorkerIndex::Unavailable {
        assert!(comparisons.len() > 100, "{} comparisons", comparisons.len());
    }
    assert!(wrong * 100 <= comparisons.len(), "{wrong} of {} are wrong", comparisons.len());
}
