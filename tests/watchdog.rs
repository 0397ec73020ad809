//! Tests that the watchdog detects a stall while it is in progress, and stops with its monitor.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tower_stall::{Phase, Stall, StallMonitor};

use self::support::{
    DEADLINE, builder_for, current_thread_runtime, ended, eventually, in_own_process, in_progress,
    monitor_for, runtime, wait_until_workers_are_known,
};

/// Blocks as many workers, each in a task, until the returned sender is dropped.
fn block(runtime: &Runtime, monitor: &StallMonitor, tasks: usize) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let started = Arc::new(Barrier::new(tasks + 1));
    for _ in 0..tasks {
        let (released, started) = (Arc::clone(&released), Arc::clone(&started));
        runtime.spawn(monitor.instrument("block", async move {
            started.wait();
            let _ = released.lock().unwrap().recv();
        }));
    }
    started.wait();
    release
}

/// Blocks a worker for a while, in a task, and waits for its end.
fn nap(runtime: &Runtime, monitor: &StallMonitor, name: &str, millis: u64) {
    let nap = async move { thread::sleep(Duration::from_millis(millis)) };
    runtime.block_on(runtime.spawn(monitor.instrument(name, nap))).unwrap();
}

fn routes(monitor: &StallMonitor) -> Vec<String> {
    monitor.recent_stalls().iter().map(|stall| stall.route().to_owned()).collect()
}

#[test]
fn a_stall_of_one_worker_of_many_is_seen_while_in_progress() {
    let runtime = runtime(3);
    let monitor = monitor_for(&runtime);
    let release = block(&runtime, &monitor, 1);
    eventually("one stall is in progress", || in_progress(&monitor).len() == 1);
    eventually("its worker is known", || in_progress(&monitor)[0].worker().is_some());
    let stall = in_progress(&monitor).remove(0);
    assert_eq!((stall.method(), stall.route(), stall.phase()), ("TASK", "block", Phase::Handler));
    assert!(stall.worker().is_some_and(|worker| worker < 3), "{stall:?}");
    assert!(stall.duration() > stall.threshold());
    drop(release);
    eventually("it has ended", || in_progress(&monitor).is_empty() && ended(&monitor).len() == 1);
}

#[test]
fn stalls_of_all_workers_are_seen_at_once() {
    let runtime = runtime(2);
    let monitor = monitor_for(&runtime);
    wait_until_workers_are_known(&runtime, &monitor);
    let release = block(&runtime, &monitor, 2);
    eventually("two stalls are in progress", || in_progress(&monitor).len() == 2);
    let mut workers: Vec<_> =
        in_progress(&monitor).iter().map(|stall| stall.worker().unwrap()).collect();
    workers.sort_unstable();
    assert_eq!(workers, [0, 1]);
    drop(release);
    let is_of_block = |stall: &Stall| stall.route() == "block";
    let both = || ended(&monitor).into_iter().filter(is_of_block).count() == 2;
    eventually("both have ended", both);
}

#[test]
fn a_stall_of_the_only_thread_is_seen_from_outside() {
    let (send_monitor, received) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        current_thread_runtime().block_on(async {
            let monitor = StallMonitor::builder().spawn().unwrap();
            send_monitor.send(monitor.clone()).unwrap();
            let blocks = async move { released.recv().unwrap_or_default() };
            monitor.instrument("block", blocks).await;
        });
    });
    let monitor = received.recv().unwrap();
    eventually("the stall is in progress", || in_progress(&monitor).len() == 1);
    assert_eq!(in_progress(&monitor)[0].worker(), Some(0));
    eventually("the I/O driver is starved", || in_progress(&monitor)[0].is_io_starved());
    drop(release);
    thread.join().unwrap();
    eventually("it has ended", || in_progress(&monitor).is_empty());
}

#[test]
fn a_shutdown_processes_what_is_queued_and_ends_the_threads() {
    in_own_process(|| {
        let reports = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reports);
        let runtime = runtime(1);
        let monitor = builder_for(&runtime)
            .on_stall(move |_| _ = count.fetch_add(1, Ordering::Relaxed))
            .spawn()
            .unwrap();
        let layer = monitor.layer();
        let nap = monitor.instrument("nap", async { thread::sleep(Duration::from_millis(60)) });
        runtime.block_on(runtime.spawn(nap)).unwrap();
        monitor.clone().shutdown();
        assert_eq!(reports.load(Ordering::Relaxed), 1, "the stall was reported before the return");
        // The kernel may list a thread for a moment after it was joined.
        #[cfg(target_os = "linux")]
        eventually("no thread, although a layer exists", || {
            linux::threads("tower-stall").count() == 0
        });
        monitor.shutdown();
        drop(layer);
    });
}

#[test]
fn a_hook_that_hangs_does_not_hang_a_shutdown() {
    let (release, released) = mpsc::channel::<()>();
    let (entered, is_entered) = mpsc::channel();
    let released = Mutex::new(released);
    let runtime = runtime(1);
    let monitor = builder_for(&runtime)
        .on_stall(move |_| {
            entered.send(()).unwrap();
            let _ = released.lock().unwrap().recv();
        })
        .spawn()
        .unwrap();
    let nap = monitor.instrument("nap", async { thread::sleep(Duration::from_millis(60)) });
    runtime.block_on(runtime.spawn(nap)).unwrap();
    is_entered.recv().unwrap();
    monitor.shutdown();
    drop(release);
}

#[test]
fn only_the_innermost_of_nested_polls_is_blamed() {
    let runtime = runtime(1);
    let monitor = monitor_for(&runtime);
    let inner = monitor.instrument("inner", async { thread::sleep(Duration::from_millis(60)) });
    let outer = monitor.instrument("outer", inner);
    runtime.block_on(runtime.spawn(outer)).unwrap();
    let quick = monitor.instrument("quick", async {});
    let outer = monitor.instrument("outer", async {
        thread::sleep(Duration::from_millis(60));
        quick.await;
    });
    runtime.block_on(runtime.spawn(outer)).unwrap();
    eventually("both are reported", || monitor.recent_stalls().len() == 2);
    assert_eq!(routes(&monitor), ["inner", "outer"]);
}

#[test]
fn nested_polls_are_reported_once_each_with_their_own_time() {
    let runtime = runtime(1);
    let monitor = monitor_for(&runtime);
    let nap = |name, millis| {
        monitor.instrument(name, async move { thread::sleep(Duration::from_millis(millis)) })
    };
    let (first, second, third) = (nap("first", 60), nap("second", 60), nap("third", 60));
    let outer = monitor.instrument("blocks-only-inside", async {
        first.await;
        second.await;
    });
    runtime.block_on(runtime.spawn(outer)).unwrap();
    let outer = monitor.instrument("blocks-itself", async {
        third.await;
        thread::sleep(Duration::from_millis(100));
    });
    let start = Instant::now();
    runtime.block_on(runtime.spawn(outer)).unwrap();
    let both = start.elapsed();
    eventually("all are reported", || monitor.recent_stalls().len() >= 4);
    let stalls = monitor.recent_stalls();
    assert_eq!(routes(&monitor), ["first", "second", "third", "blocks-itself"]);
    let (third, own) = (stalls[2].duration(), stalls[3].duration());
    assert!(own >= Duration::from_millis(100), "{own:?}");
    assert!(
        own + third <= both + Duration::from_millis(1),
        "{third:?} was counted twice: {own:?} of {both:?}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn time_of_an_uninstrumented_task_is_reported_at_most_once() {
    let runtime = runtime(1);
    let monitor = monitor_for(&runtime);
    // From the first instrumented poll on the monitor knows the worker's thread.
    runtime.block_on(runtime.spawn(monitor.instrument("first", async {}))).unwrap();
    let uninstrumented = runtime.spawn(async {
        let start = Instant::now();
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(300));
            // On-CPU for several scans, so that the watchdog sees the sleep end.
            let awake = Instant::now();
            while awake.elapsed() < Duration::from_millis(30) {}
        }
        start.elapsed()
    });
    let took = runtime.block_on(uninstrumented).unwrap();
    nap(&runtime, &monitor, "last", 100);
    eventually("the last one is reported", || routes(&monitor).iter().any(|route| route == "last"));
    let stalls = monitor.recent_stalls();
    let unattributed = stalls.iter().filter(|stall| stall.route() == "unattributed");
    let reported: Duration = unattributed.map(Stall::duration).sum();
    assert!(Duration::ZERO < reported && reported <= took, "{reported:?} of {took:?}: {stalls:#?}");
}

#[test]
fn a_shutdown_ends_an_unattributed_stall_in_progress() {
    let runtime = runtime(1);
    let monitor = monitor_for(&runtime);
    // From the first instrumented poll on the monitor knows the worker's thread.
    runtime.block_on(runtime.spawn(monitor.instrument("first", async {}))).unwrap();
    let (release, released) = mpsc::channel::<()>();
    let uninstrumented = runtime.spawn(async move { released.recv() });
    eventually("the stall is in progress", || in_progress(&monitor).len() == 1);
    monitor.clone().shutdown();
    assert_eq!(in_progress(&monitor).len(), 0);
    assert_eq!(ended(&monitor)[0].route(), "unattributed");
    drop(release);
    runtime.block_on(uninstrumented).unwrap().unwrap_err();
}

#[test]
fn several_doublings_at_once_are_one_report() {
    let runtime = runtime(1);
    let (report, reports) = mpsc::channel();
    let builder = builder_for(&runtime).stall_threshold(Duration::from_secs(60));
    let hook = move |stall: &Stall| report.send(stall.is_in_progress()).unwrap_or_default();
    let monitor = builder.on_stall(hook).spawn().unwrap();
    let release = block(&runtime, &monitor, 1);
    // Not a synchronization: the poll must be older than 1 s and 2 s when it becomes a stall, and
    // younger than 4 s at the end.
    thread::sleep(Duration::from_millis(2_200));
    monitor.set_stall_threshold(Duration::from_millis(25)).unwrap();
    eventually("the stall is in progress", || in_progress(&monitor).len() == 1);
    assert_eq!(reports.recv_timeout(DEADLINE), Ok(true));
    // A bounded wait: many scans of the watchdog, in which no second report may come.
    let second = reports.recv_timeout(Duration::from_millis(100));
    assert_eq!(second, Err(mpsc::RecvTimeoutError::Timeout), "a second report");
    drop(release);
    assert_eq!(reports.recv_timeout(DEADLINE), Ok(false), "a second report");
}

#[test]
fn a_monitor_whose_runtime_has_shut_down_reports_no_io_starvation() {
    let (gone, other) = (runtime(1), runtime(1));
    let monitor = monitor_for(&gone);
    gone.shutdown_background();
    (0..3).for_each(|_| nap(&other, &monitor, "nap", 60));
    eventually("all are reported", || ended(&monitor).len() == 3);
    assert!(!ended(&monitor)[2].is_io_starved());
}

#[test]
fn the_threshold_can_be_changed_while_running() {
    /// What a tick of any clock is shorter than.
    const PRECISION: Duration = Duration::from_micros(1);
    let runtime = runtime(1);
    let monitor = monitor_for(&runtime);
    monitor.set_stall_threshold(Duration::from_secs(20)).unwrap();
    nap(&runtime, &monitor, "before", 50);
    let threshold = Duration::from_millis(1);
    monitor.set_stall_threshold(threshold).unwrap();
    nap(&runtime, &monitor, "after", 50);
    eventually("one stall is reported", || monitor.recent_stalls().len() == 1);
    let stall = monitor.recent_stalls().remove(0);
    assert_eq!(stall.route(), "after");
    assert!(stall.threshold().abs_diff(threshold) < PRECISION, "{stall:?}");

    let error = monitor.set_stall_threshold(Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains("zero"), "{error}");
    let unchanged = monitor.stall_threshold();
    assert!(unchanged.abs_diff(threshold) < PRECISION, "a refused threshold: {unchanged:?}");
}

#[test]
fn a_panicking_hook_is_contained_and_counted() {
    #[cfg(feature = "prometheus")]
    support::install_recorder();
    let runtime = runtime(1);
    let (report, reports) = mpsc::channel();
    let hook = move |_: &Stall| {
        report.send(()).unwrap();
        std::panic::resume_unwind(Box::new("a panic of the hook"));
    };
    let monitor = builder_for(&runtime).on_stall(hook).spawn().unwrap();
    for _ in 0..2 {
        nap(&runtime, &monitor, "nap", 40);
        reports.recv_timeout(DEADLINE).unwrap();
    }
    #[cfg(feature = "prometheus")]
    {
        // No other hook of this binary panics.
        let panics = || support::scrape().sum("tower_stall_hook_panics_total", &[]);
        eventually("both panics are counted", || panics() >= 2.0);
        assert_eq!(panics(), 2.0);
    }
}

/// Waits until the watchdog of this process is idle: scans some 15 times a second. An active one
/// scans 200 times a second.
#[cfg(target_os = "linux")]
fn wait_until_the_watchdog_is_idle() {
    eventually("the watchdog is idle", || {
        let before = linux::switches(linux::WATCHDOG);
        // A bounded wait: the interval of the measurement.
        thread::sleep(Duration::from_millis(200));
        linux::switches(linux::WATCHDOG) - before <= 8
    });
}

#[cfg(target_os = "linux")]
mod linux {
    use std::convert::Infallible;

    use http::{Request, Response};
    use tower::{Layer, Service, service_fn};

    use super::*;

    /// The name of the watchdog's thread, of which the kernel keeps 15 bytes.
    pub(super) const WATCHDOG: &str = "tower-stall-wat";

    /// Returns the `/proc` folders of this process' threads whose names begin with `name`.
    pub(super) fn threads(name: &str) -> impl Iterator<Item = std::path::PathBuf> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        tasks.filter(move |task| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|found| found.starts_with(name))
        })
    }

    /// Returns how often these threads have given up their core voluntarily, which is how often
    /// they have been woken.
    pub(super) fn switches(name: &str) -> u64 {
        let count = |path: std::path::PathBuf| {
            let status = std::fs::read_to_string(path.join("status")).ok()?;
            let is_wanted = |line: &&str| line.starts_with("voluntary_ctxt_switches");
            status.lines().find(is_wanted)?.split_whitespace().last()?.parse::<u64>().ok()
        };
        threads(name).filter_map(count).sum()
    }

    #[test]
    fn threads_and_tasks_end_with_the_last_handle() {
        in_own_process(|| {
            let runtime = runtime(2);
            let (report, reports) = mpsc::channel();
            let hook = move |stall: &Stall| report.send(stall.is_in_progress()).unwrap_or_default();
            let monitor = builder_for(&runtime).on_stall(hook).spawn().unwrap();
            let layer = monitor.layer();
            // Five, and those of the hook and of the symbolizer.
            let expected = 6 + usize::from(cfg!(stacks_supported));
            eventually("its threads run", || threads("tower-stall").count() == expected);
            eventually("two tasks", || runtime.metrics().num_alive_tasks() == 2);

            // A layer keeps its monitor alive: the monitor sees and reports what it measures.
            drop(monitor);
            let mut service = layer.layer(service_fn(|_: Request<()>| async {
                thread::sleep(Duration::from_millis(100));
                Ok::<_, Infallible>(Response::new(String::new()))
            }));
            runtime.block_on(service.call(Request::new(()))).unwrap();
            assert_eq!(reports.recv_timeout(DEADLINE), Ok(false));
            // Besides `tower-stall-trial`, which runs for a moment.
            eventually("the same threads run", || threads("tower-stall").count() == expected);

            drop((service, layer));
            eventually("no thread", || threads("tower-stall").count() == 0);
            eventually("no task", || runtime.metrics().num_alive_tasks() == 0);
        });
    }

    #[test]
    fn threads_end_even_if_the_runtime_has_shut_down_first() {
        in_own_process(|| {
            let runtime = runtime(2);
            let monitor = monitor_for(&runtime);
            let release = block(&runtime, &monitor, 1);
            eventually("one stall is in progress", || in_progress(&monitor).len() == 1);
            runtime.shutdown_background();
            drop(release);
            eventually("it has ended", || in_progress(&monitor).is_empty());
            drop(monitor);
            eventually("no thread", || threads("tower-stall").count() == 0);
        });
    }

    #[test]
    fn an_idle_process_is_rarely_woken() {
        in_own_process(|| {
            let runtime = runtime(2);
            let monitor = monitor_for(&runtime);
            runtime.block_on(runtime.spawn(monitor.instrument("once", async {}))).unwrap();
            wait_until_the_watchdog_is_idle();
            let (before, start) = (switches(""), Instant::now());
            // A bounded wait: the interval of the measurement.
            thread::sleep(Duration::from_secs(3));
            let per_second = (switches("") - before) as f64 / start.elapsed().as_secs_f64();
            println!("{per_second:.1} wake-ups per second");
            assert!(per_second <= 20.0, "{per_second:.1} wake-ups per second");
        });
    }
}
