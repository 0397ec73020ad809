//! Tests what is reported of code that no layer measures: blocking in an idle process, workers that
//! are handed off, threads that are no workers, a blocking pool without a free thread.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]
#![cfg(all(target_os = "linux", feature = "prometheus"))]

mod support;

use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};
use tower_stall::{Cause, Stall};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use self::support::{
    builder_for, current_thread_runtime, ended, eventually, in_own_process, in_progress,
    install_recorder, monitor_for, runtime, scrape, stats, tokio_tells_the_worker,
    wait_until_workers_are_known,
};

const BLOCK: Duration = Duration::from_millis(100);

/// A gate that blocks threads until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

/// Opens a gate, also if the test fails, whose runtime would otherwise never end.
struct Opener(Gate);

impl Drop for Opener {
    fn drop(&mut self) {
        self.0.open();
    }
}

impl Gate {
    fn wait(&self) {
        let (is_open, has_changed) = &*self.0;
        let is_open = is_open.lock().unwrap();
        drop(has_changed.wait_while(is_open, |is_open| !*is_open).unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

fn small_pool_runtime(workers: usize, blocking_threads: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(blocking_threads)
        .enable_all()
        .build()
        .unwrap()
}

/// An idle watchdog scans every 65 ms. On an overloaded machine it may scan too late: half of the
/// trials is what it must see at least. One that slept for a second would see one in ten.
#[test]
fn blocking_of_100_ms_is_seen_in_an_idle_process() {
    const TRIALS: usize = 10;
    let runtime = runtime(2);
    let monitor = monitor_for(&runtime);
    for _ in 0..TRIALS {
        // A bounded wait: the process is idle meanwhile.
        thread::sleep(Duration::from_millis(400));
        runtime.block_on(runtime.spawn(async { thread::sleep(BLOCK) })).unwrap();
    }
    eventually("half are reported", || ended(&monitor).len() >= TRIALS / 2);
    for stall in ended(&monitor) {
        assert_eq!((stall.route(), stall.cause()), ("unattributed", Cause::Blocked), "{stall}");
    }
}

#[test]
fn the_first_stall_of_a_process_is_reported_with_its_line() {
    in_own_process(|| {
        let runtime = runtime(4);
        let monitor = monitor_for(&runtime);
        wait_until_workers_are_known(&runtime, &monitor);
        let line = line!() + 1;
        let sleep = async { thread::sleep(Duration::from_millis(600)) };
        runtime.block_on(runtime.spawn(sleep)).unwrap();
        let stall = || ended(&monitor).into_iter().find(|stall| stall.duration() > 4 * BLOCK);
        eventually("it is reported", || stall().is_some());
        let found = stall().unwrap();
        assert_eq!((found.route(), found.cause()), ("unattributed", Cause::Blocked), "{found:#}");
        if cfg!(stacks_supported) {
            let found_line = || Some(stall()?.location()?.line());
            eventually("its line is known", || found_line().is_some());
            assert_eq!(found_line(), Some(line), "{found:#}");
        }
    });
}

#[test]
fn a_poll_whose_worker_nobody_takes_over_is_a_stall() {
    if !tokio_tells_the_worker() {
        // The third thread blocks at once, before anything shows which worker it has taken over.
        return;
    }
    // Two workers, and no thread beside them.
    let runtime = small_pool_runtime(2, 1);
    let monitor = monitor_for(&runtime);
    let (gate, started) = (Gate::default(), Arc::new(Mutex::new(0)));
    let _opener = Opener(gate.clone());
    for _ in 0..3 {
        let (gate, started) = (gate.clone(), Arc::clone(&started));
        runtime.spawn(monitor.instrument("in-place", async move {
            tokio::task::block_in_place(|| {
                *started.lock().unwrap() += 1;
                gate.wait();
            });
        }));
    }
    eventually("three threads block", || *started.lock().unwrap() == 3);
    // Longer than 61 polls of the length of the threshold, after which no thread is expected.
    let has_lasted = |stall: &Stall| stall.duration() > 15 * BLOCK;
    eventually("both workers are stalled", || {
        in_progress(&monitor).iter().filter(|stall| has_lasted(stall)).count() == 2
    });
    assert!(in_progress(&monitor).iter().all(|stall| stall.route() == "in-place"));
    gate.open();
    eventually("they have ended", || in_progress(&monitor).is_empty());
    eventually("two are counted", || stats(&monitor, "TASK", "in-place").unwrap().stalls() == 2);
}

#[test]
fn a_poll_that_hands_off_its_worker_for_long_is_not_a_stall() {
    let runtime = runtime(2);
    let monitor = monitor_for(&runtime);
    let started = Instant::now();
    for name in ["measured", "unmeasured"] {
        let blocks = async { tokio::task::block_in_place(|| thread::sleep(20 * BLOCK)) };
        if name == "measured" {
            runtime.spawn(monitor.instrument(name, blocks));
        } else {
            runtime.spawn(blocks);
        }
    }
    while started.elapsed() < 22 * BLOCK {
        let progress = in_progress(&monitor);
        assert!(progress.iter().all(|stall| stall.duration() < 10 * BLOCK), "{progress:#?}");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(ended(&monitor).is_empty(), "{:#?}", ended(&monitor));
}

/// A thread that runs has no stack. The thread that takes its worker over may be seen there before
/// the watchdog looks, so the counters of the worker alone show nothing.
#[test]
fn a_poll_that_computes_in_place_beside_other_polls_is_not_a_stall() {
    let runtime = runtime(2);
    let monitor = monitor_for(&runtime);
    for _ in 0..2 {
        let other = monitor.clone();
        runtime.spawn(async move {
            loop {
                other.instrument("other", async {}).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
    let work = async {
        tokio::task::block_in_place(|| {
            let start = Instant::now();
            while start.elapsed() < 6 * BLOCK {}
        });
    };
    runtime.block_on(runtime.spawn(monitor.instrument("in-place", work))).unwrap();
    monitor.clone().shutdown();
    assert_eq!(stats(&monitor, "TASK", "in-place").unwrap().stalls(), 0);
    let of_work: Vec<_> =
        ended(&monitor).into_iter().filter(|stall| stall.route() == "in-place").collect();
    assert!(of_work.is_empty(), "{of_work:#?}");
}

#[test]
fn polls_on_threads_that_are_no_workers_are_reported_and_counted_apart() {
    in_own_process(|| {
        install_recorder();
        let runtime = runtime(2);
        let monitor = monitor_for(&runtime);
        let work = monitor.instrument("report", async { thread::sleep(BLOCK) });
        runtime.block_on(runtime.spawn_blocking(move || Handle::current().block_on(work))).unwrap();
        let count = |name| scrape().sum(name, &[("route", "report")]);
        eventually("it is counted", || count("tower_stall_off_worker_polls_total") == 1.0);
        assert_eq!(count("tower_stall_duration_seconds_count"), 0.0);
        assert_eq!(count("tower_stall_stalled_seconds_total"), 0.0);
        let stall = ended(&monitor).remove(0);
        assert_eq!((stall.route(), stall.worker()), ("report", None), "{stall}");
        assert!(!stall.is_io_starved(), "only a worker holds the driver");
        assert_eq!(stats(&monitor, "TASK", "report").unwrap().stalls(), 0);
    });
}

#[test]
fn a_runtime_that_has_ended_is_not_stalled() {
    in_own_process(|| {
        install_recorder();
        for runtime in [runtime(2), current_thread_runtime()] {
            let monitor = monitor_for(&runtime);
            runtime.block_on(async {
                tokio::time::sleep(3 * BLOCK).await;
                tokio::spawn(async {}).await.unwrap();
            });
            drop(runtime);
            // A bounded wait: long enough for any thread to be believed to be stalled.
            thread::sleep(20 * BLOCK);
            assert!(monitor.recent_stalls().is_empty(), "{:#?}", monitor.recent_stalls());
            let sum = |name| scrape().sum(name, &[]);
            assert_eq!(sum("tower_stall_workers_stalled"), 0.0);
            assert_eq!(sum("tower_stall_worker_busy_ratio"), 0.0);
            monitor.shutdown();
        }
    });
}

/// Which needs a stack that shows that the thread is elsewhere.
#[test]
fn a_runtime_that_no_thread_drives_is_not_stalled() {
    if !cfg!(stacks_supported) {
        return;
    }
    let runtime = current_thread_runtime();
    let monitor = monitor_for(&runtime);
    for _ in 0..2 {
        runtime.block_on(async { tokio::time::sleep(3 * BLOCK).await });
        // A bounded wait: the time in which no thread drives the runtime.
        thread::sleep(20 * BLOCK);
        assert!(in_progress(&monitor).is_empty(), "{:#?}", in_progress(&monitor));
    }
    runtime.block_on(async { thread::sleep(3 * BLOCK) });
    eventually("the stall inside it is reported", || !ended(&monitor).is_empty());
    assert_eq!(ended(&monitor).len(), 1, "{:#?}", ended(&monitor));
}

/// 30 tasks of 10 ms polls keep two workers busy, of which tokio hears every 610 ms.
#[test]
fn many_medium_polls_saturate_workers_and_stall_none() {
    in_own_process(|| {
        install_recorder();
        let runtime = runtime(2);
        let monitor = monitor_for(&runtime);
        for _ in 0..30 {
            runtime.spawn(async {
                loop {
                    let start = Instant::now();
                    while start.elapsed() < Duration::from_millis(10) {}
                    tokio::task::yield_now().await;
                }
            });
        }
        let ratio =
            |worker: &str| scrape().sum("tower_stall_worker_busy_ratio", &[("worker", worker)]);
        let mut saturated = 0;
        eventually("both workers are busy, ten times in a row", || {
            let is_saturated = ["0", "1"].iter().all(|worker| ratio(worker) >= 0.9);
            saturated = if is_saturated { saturated + 1 } else { 0 };
            thread::sleep(Duration::from_millis(100));
            saturated >= 10
        });
        // A poll that the host has kept from running is a stall.
        let own: Vec<_> = ended(&monitor)
            .into_iter()
            .filter(|stall| matches!(stall.cause(), Cause::Cpu | Cause::Blocked))
            .collect();
        assert!(own.is_empty(), "{own:#?}");
        runtime.shutdown_background();
    });
}

/// Collects the messages of events.
#[derive(Clone, Default)]
struct Messages(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Messages {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.lock().unwrap().push(message.0);
    }
}

#[test]
fn a_blocking_pool_without_a_free_thread_is_reported_while_it_lasts() {
    in_own_process(|| {
        install_recorder();
        let messages = Messages::default();
        let subscriber = tracing_subscriber::registry().with(messages.clone());
        let runtime = small_pool_runtime(2, 2);
        let monitor = tracing::subscriber::with_default(subscriber, || {
            builder_for(&runtime).runtime_name("pool").spawn().unwrap()
        });
        let gate = Gate::default();
        let _opener = Opener(gate.clone());
        let (started, is_started) = mpsc::channel();
        for _ in 0..2 {
            let (gate, started) = (gate.clone(), started.clone());
            runtime.spawn_blocking(move || {
                started.send(()).unwrap();
                gate.wait();
            });
        }
        (0..2).for_each(|_| is_started.recv().unwrap());
        let sum = || {
            let labels = [("runtime", "pool")];
            scrape().sum("tower_stall_blocking_pool_delay_seconds_sum", &labels)
        };
        eventually("the age of the probe is a delay", || sum() >= 1.0);
        let report = || {
            let messages = messages.0.lock().unwrap();
            messages.iter().find(|message| message.contains("blocking pool")).cloned()
        };
        eventually("what its threads do is reported", || report().is_some());
        let report = report().unwrap();
        assert!(report.contains("2 threads"), "{report}");
        if cfg!(stacks_supported) {
            assert!(report.contains("unmeasured.rs"), "{report}");
        }
        gate.open();
        drop(monitor);
    });
}
