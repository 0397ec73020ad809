//! Tests that the watchdog sees a stall while it lasts, and ends with its monitor.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tower_stall::{Phase, Stall, StallMonitor};

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn runtime(workers: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap()
}

fn monitor(runtime: &Runtime) -> StallMonitor {
    StallMonitor::builder().runtime(runtime.handle().clone()).spawn().unwrap()
}

fn in_progress(monitor: &StallMonitor) -> Vec<Stall> {
    monitor.recent_stalls().into_iter().filter(Stall::is_in_progress).collect()
}

/// Blocks as many tasks as asked for, until the returned sender is dropped.
fn block(runtime: &Runtime, monitor: &StallMonitor, tasks: usize) -> mpsc::Sender<()> {
    let (hold, released) = mpsc::channel::<()>();
    let released = Arc::new(std::sync::Mutex::new(released));
    let started = Arc::new(Barrier::new(tasks + 1));
    for _ in 0..tasks {
        let (released, started) = (Arc::clone(&released), Arc::clone(&started));
        runtime.spawn(monitor.instrument("block", async move {
            started.wait();
            let _ = released.lock().unwrap().recv();
        }));
    }
    started.wait();
    hold
}

#[test]
fn a_stall_of_one_worker_of_many_is_seen_while_it_lasts() {
    let runtime = runtime(3);
    let monitor = monitor(&runtime);
    let hold = block(&runtime, &monitor, 1);
    eventually("one stall is in progress", || in_progress(&monitor).len() == 1);
    let stall = in_progress(&monitor).remove(0);
    assert_eq!((stall.method(), stall.route(), stall.phase()), ("TASK", "block", Phase::Handler));
    assert!(stall.worker().is_some_and(|worker| worker < 3), "{stall:?}");
    assert!(stall.duration() > stall.threshold());
    drop(hold);
    eventually("it is over", || in_progress(&monitor).is_empty() && monitor.recent_stalls().len() == 1);
    assert!(!monitor.recent_stalls()[0].is_in_progress());
}

#[test]
fn stalls_of_all_workers_are_seen_at_once() {
    let runtime = runtime(2);
    let monitor = monitor(&runtime);
    let hold = block(&runtime, &monitor, 2);
    eventually("two stalls are in progress", || in_progress(&monitor).len() == 2);
    let mut workers: Vec<_> = in_progress(&monitor).iter().map(|stall| stall.worker().unwrap()).collect();
    workers.sort_unstable();
    assert_eq!(workers, [0, 1]);
    drop(hold);
    eventually("both are over", || monitor.recent_stalls().iter().filter(|stall| !stall.is_in_progress()).count() == 2);
}

#[test]
fn a_stall_of_the_only_thread_is_seen_from_outside() {
    let (tell, told) = mpsc::channel();
    let (hold, released) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let monitor = StallMonitor::builder().spawn().unwrap();
            tell.send(monitor.clone()).unwrap();
            monitor.instrument("block", async move { released.recv().unwrap_or_default() }).await;
        });
    });
    let monitor = told.recv().unwrap();
    eventually("the stall is in progress", || in_progress(&monitor).len() == 1);
    assert_eq!(in_progress(&monitor)[0].worker(), Some(0));
    eventually("timers stand still", || in_progress(&monitor)[0].is_io_starved());
    drop(hold);
    thread.join().unwrap();
    eventually("it is over", || in_progress(&monitor).is_empty());
}

#[test]
fn a_stall_after_a_long_quiet_time_wakes_the_watchdog() {
    let runtime = runtime(1);
    let monitor = monitor(&runtime);
    let seen_after = |_| {
        // Long enough for the watchdog to fall asleep, and shorter than its sleep.
        thread::sleep(Duration::from_millis(400));
        let hold = block(&runtime, &monitor, 1);
        let began = Instant::now();
        // What only the watchdog's look leads to.
        eventually("timers stand still", || in_progress(&monitor).iter().any(Stall::is_io_starved));
        drop(hold);
        eventually("it is over", || in_progress(&monitor).is_empty());
        began.elapsed()
    };
    let quickest = (0..3).map(seen_after).min().unwrap();
    assert!(quickest < Duration::from_millis(300), "the watchdog slept on for {quickest:?}");
}

#[test]
fn the_innermost_of_nested_polls_is_blamed_and_only_it() {
    let runtime = runtime(1);
    let monitor = monitor(&runtime);
    let inner = monitor.instrument("inner", async { thread::sleep(Duration::from_millis(60)) });
    let outer = monitor.instrument("outer", inner);
    runtime.block_on(runtime.spawn(outer)).unwrap();
    let quick = monitor.instrument("quick", async {});
    let outer = monitor.instrument("outer", async {
        thread::sleep(Duration::from_millis(60));
        quick.await;
    });
    runtime.block_on(runtime.spawn(outer)).unwrap();
    eventually("both are told", || monitor.recent_stalls().len() == 2);
    let routes: Vec<_> = monitor.recent_stalls().iter().map(|stall| stall.route().to_owned()).collect();
    assert_eq!(routes, ["inner", "outer"]);
}

#[test]
fn each_of_several_polls_inside_one_is_told_and_the_outer_for_its_own_time_only() {
    let runtime = runtime(1);
    let monitor = monitor(&runtime);
    let nap = |name, millis| monitor.instrument(name, async move { thread::sleep(Duration::from_millis(millis)) });
    let (first, second, third) = (nap("first", 60), nap("second", 60), nap("third", 60));
    let outer = monitor.instrument("only-around", async {
        first.await;
        second.await;
    });
    runtime.block_on(runtime.spawn(outer)).unwrap();
    let outer = monitor.instrument("blocks-itself", async {
        third.await;
        thread::sleep(Duration::from_millis(100));
    });
    let began = Instant::now();
    runtime.block_on(runtime.spawn(outer)).unwrap();
    let both = began.elapsed();
    eventually("all are told", || monitor.recent_stalls().len() >= 4);
    let stalls = monitor.recent_stalls();
    let routes: Vec<_> = stalls.iter().map(Stall::route).collect();
    assert_eq!(routes, ["first", "second", "third", "blocks-itself"]);
    let (third, own) = (stalls[2].duration(), stalls[3].duration());
    assert!(own >= Duration::from_millis(100), "{own:?}");
    assert!(own + third <= both + Duration::from_millis(1), "{third:?} was told twice: {own:?} of {both:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn what_an_unmeasured_task_steals_is_told_once() {
    let runtime = runtime(1);
    let monitor = monitor(&runtime);
    // From now on it is known which thread the worker is.
    runtime.block_on(runtime.spawn(monitor.instrument("first", async {}))).unwrap();
    let unmeasured = runtime.spawn(async {
        let began = Instant::now();
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(300));
            // For the watchdog to see that it is awake.
            let awake = Instant::now();
            while awake.elapsed() < Duration::from_millis(30) {}
        }
        began.elapsed()
    });
    let took = runtime.block_on(unmeasured).unwrap();
    let last = monitor.instrument("last", async { thread::sleep(Duration::from_millis(100)) });
    runtime.block_on(runtime.spawn(last)).unwrap();
    eventually("the last one is told", || monitor.recent_stalls().iter().any(|stall| stall.route() == "last"));
    let stalls = monitor.recent_stalls();
    let told = stalls.iter().filter(|stall| stall.route() == "unattributed").map(Stall::duration);
    let told: Duration = told.sum();
    assert!(Duration::ZERO < told && told <= took, "{told:?} of {took:?}: {stalls:#?}");
}

#[test]
fn past_several_doublings_at_once_there_is_one_report() {
    let runtime = runtime(1);
    let (tell, told) = mpsc::channel();
    let builder = StallMonitor::builder().runtime(runtime.handle().clone()).stall_threshold(Duration::from_secs(60));
    let hook = move |stall: &Stall| tell.send(stall.is_in_progress()).unwrap_or_default();
    let monitor = builder.on_stall(hook).spawn().unwrap();
    let hold = block(&runtime, &monitor, 1);
    thread::sleep(Duration::from_millis(2_200));
    monitor.set_stall_threshold(Duration::from_millis(25)).unwrap();
    eventually("the stall is in progress", || in_progress(&monitor).len() == 1);
    assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(true));
    // Many looks of the watchdog, but no doubling.
    thread::sleep(Duration::from_millis(100));
    drop(hold);
    assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(false), "a second report of one moment");
}

#[test]
fn without_its_runtime_a_monitor_claims_nothing_about_io() {
    let gone = runtime(1);
    let other = runtime(1);
    let monitor = monitor(&gone);
    gone.shutdown_background();
    for _ in 0..3 {
        let nap = monitor.instrument("nap", async { thread::sleep(Duration::from_millis(60)) });
        other.block_on(other.spawn(nap)).unwrap();
    }
    eventually("all are told", || monitor.recent_stalls().len() == 3);
    assert!(!monitor.recent_stalls()[2].is_io_starved());
}

#[test]
fn the_threshold_changes_while_running() {
    let runtime = runtime(1);
    let monitor = monitor(&runtime);
    let nap = |name| {
        runtime.block_on(runtime.spawn(monitor.instrument(name, async { thread::sleep(Duration::from_millis(50)) })))
    };
    monitor.set_stall_threshold(Duration::from_secs(20)).unwrap();
    nap("before").unwrap();
    monitor.set_stall_threshold(Duration::from_millis(1)).unwrap();
    nap("after").unwrap();
    eventually("one stall is told", || monitor.recent_stalls().len() == 1);
    assert_eq!(monitor.recent_stalls()[0].route(), "after");
    assert_eq!(
        monitor.set_stall_threshold(Duration::ZERO),
        Err(monitor.set_stall_threshold(Duration::ZERO).unwrap_err())
    );
    assert!(monitor.stall_threshold() > Duration::ZERO);
}

#[test]
fn a_hook_that_panics_is_contained() {
    let runtime = runtime(1);
    let (tell, told) = mpsc::channel();
    let builder = StallMonitor::builder().runtime(runtime.handle().clone());
    let hook = move |_: &Stall| {
        tell.send(()).unwrap();
        std::panic::resume_unwind(Box::new("the hook's own affair"));
    };
    let monitor = builder.on_stall(hook).spawn().unwrap();
    for _ in 0..2 {
        runtime
            .block_on(runtime.spawn(monitor.instrument("nap", async { thread::sleep(Duration::from_millis(40)) })))
            .unwrap();
        told.recv_timeout(Duration::from_secs(30)).unwrap();
    }
}

#[cfg(target_os = "linux")]
mod ends {
    use super::*;

    fn threads(monitor_threads: &str) -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
        names.filter(|name| name.starts_with(monitor_threads)).count()
    }

    /// A child process, so that other tests' monitors do not count.
    fn alone(test: &str, body: impl FnOnce()) {
        if std::env::var_os("TOWER_STALL_ALONE").is_some() {
            return body();
        }
        let exe = std::env::current_exe().unwrap();
        let run = std::process::Command::new(exe)
            .args([test, "--exact", "--nocapture"])
            .env("TOWER_STALL_ALONE", "1")
            .output();
        let run = run.unwrap();
        assert!(
            run.status.success(),
            "{}{}",
            String::from_utf8_lossy(&run.stdout),
            String::from_utf8_lossy(&run.stderr)
        );
    }

    #[test]
    fn threads_and_tasks_end_with_the_last_handle() {
        alone("ends::threads_and_tasks_end_with_the_last_handle", || {
            let runtime = runtime(2);
            let monitor = monitor(&runtime);
            let layer = monitor.layer();
            eventually("three threads", || threads("tower-stall") == 3);
            eventually("two tasks", || runtime.metrics().num_alive_tasks() == 2);
            drop(monitor);
            thread::sleep(Duration::from_millis(50));
            assert_eq!(threads("tower-stall"), 3, "a layer keeps its monitor alive");
            drop(layer);
            eventually("no thread", || threads("tower-stall") == 0);
            eventually("no task", || runtime.metrics().num_alive_tasks() == 0);
        });
    }

    #[test]
    fn they_end_too_when_the_runtime_has_gone_first() {
        alone("ends::they_end_too_when_the_runtime_has_gone_first", || {
            let runtime = runtime(2);
            let monitor = monitor(&runtime);
            let hold = block(&runtime, &monitor, 1);
            eventually("one stall is in progress", || in_progress(&monitor).len() == 1);
            runtime.shutdown_background();
            drop(hold);
            eventually("it is over", || in_progress(&monitor).is_empty());
            drop(monitor);
            eventually("no thread", || threads("tower-stall") == 0);
        });
    }

    #[test]
    fn a_quiet_process_is_hardly_woken() {
        alone("ends::a_quiet_process_is_hardly_woken", || {
            let runtime = runtime(2);
            let monitor = monitor(&runtime);
            runtime.block_on(runtime.spawn(monitor.instrument("once", async {}))).unwrap();
            // Long enough to fall asleep.
            thread::sleep(Duration::from_millis(500));
            let (before, began) = (switches(), Instant::now());
            thread::sleep(Duration::from_secs(3));
            let per_second = (switches() - before) as f64 / began.elapsed().as_secs_f64();
            println!("{per_second:.1} wake-ups a second");
            assert!(per_second <= 20.0, "{per_second:.1} wake-ups a second");
        });
    }

    /// How often the threads of this process gave up their core of their own accord, which is how often they are woken.
    fn switches() -> u64 {
        let main = std::process::id().to_string();
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let others = tasks.filter(|path| path.file_name().unwrap() != main.as_str());
        let status = others.filter_map(|path| std::fs::read_to_string(path.join("status")).ok());
        let counts = status.filter_map(|status| {
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"))?.to_owned();
            line.split_whitespace().last()?.parse::<u64>().ok()
        });
        counts.sum()
    }
}
