//! What the watching costs while nothing is wrong, and how soon it sees what is.

use std::sync::mpsc;
use std::task::Context;
use std::time::{Duration, Instant};

use tower_stall::{Cause, StallMonitor};

use crate::gauges::Gauges;
use crate::growth::{in_child, print_row};
use crate::load::{self, Work};
use crate::page::{self, Result, Table};
use crate::proc;
use crate::stats::quantile;
use crate::subject::Subject;
use crate::variants::{Recorders, Variant};

const THREADS: [&str; 3] = ["tower-stall-watch", "tower-stall-report", "tower-stall-rescue"];
const SECONDS: u64 = 4;

pub fn part() -> Result<()> {
    let mut table = Table::new(&["requests a second", "wake-ups a second", "CPU of the three threads, ms a second"]);
    for rate in [0, 1, 1_000, 50_000] {
        table.row(&in_child("rate", rate)?);
    }
    let mut sight =
        Table::new(&["a blocking sleep of 25 ms (the threshold) and", "stalls", "seen: cause known", "line known"]);
    for later in [1, 2, 5, 10] {
        sight.row(&in_child("sight", later)?);
    }
    let mut moments = Table::new(&["a stall that lasts", "half of them", "90 of 100", "99 of 100", "all"]);
    for stalls in [1, 300] {
        moments.row(&in_child("gauge", stalls)?);
    }
    moments.row(&in_child("report", 30)?);
    page::write("watching", &format!("{table}\n{sight}\n{moments}"))
}

/// So many requests a second, in bunches each 2 ms.
pub fn rate(rate: usize) {
    let recorders = Recorders::install();
    let waker = load::waker();
    let mut cx = Context::from_waker(&waker);
    let mut subject = Subject::new(Variant::TowerStall, Work::Ready, &recorders);
    subject.warm_up(100, &mut cx);
    std::thread::sleep(Duration::from_secs(2));
    let (cpu, woken) = (total(proc::thread_cpu), THREADS.iter().map(|name| proc::wake_ups(name)).sum::<u64>());
    let worker = proc::wake_ups("tokio");
    let start = Instant::now();
    let mut done = 0;
    while start.elapsed() < Duration::from_secs(SECONDS) {
        let due = (start.elapsed().as_secs_f64() * rate as f64) as usize;
        subject.warm_up(due - done, &mut cx);
        done = due;
        std::thread::sleep(Duration::from_millis(2));
    }
    let cpu = (total(proc::thread_cpu) - cpu).as_secs_f64() * 1e3 / SECONDS as f64;
    let woken = THREADS.iter().map(|name| proc::wake_ups(name)).sum::<u64>() - woken + proc::wake_ups("tokio") - worker;
    print_row(&[rate.to_string(), format!("{:.0}", woken as f64 / SECONDS as f64), format!("{cpu:.2}")]);
}

fn total(of: impl Fn(&str) -> Duration) -> Duration {
    THREADS.iter().map(|name| of(name)).sum()
}

/// Stalls that last a little longer than the threshold.
pub fn sight(later: usize) {
    const STALLS: usize = 100;
    let runtime = runtime();
    let (tell, told) = mpsc::channel();
    let monitor = StallMonitor::builder().runtime(runtime.handle().clone()).on_stall(move |stall| {
        let _ = tell.send((stall.cause() != Cause::Unknown, stall.location().is_some()));
    });
    let monitor = monitor.reports_per_minute(u32::MAX).spawn().expect("a monitor");
    let length = Duration::from_millis(25 + later as u64);
    // The first stack takes longest, as the symbols are read.
    runtime
        .block_on(runtime.spawn(monitor.instrument("warm", async { std::thread::sleep(Duration::from_millis(200)) })))
        .expect("a task");
    let _ = told.recv();
    for _ in 0..STALLS {
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
        let stall = monitor.instrument("stall", async move { std::thread::sleep(length) });
        runtime.block_on(runtime.spawn(stall)).expect("a task");
    }
    let seen: Vec<_> = told.iter().take(STALLS).collect();
    let causes = seen.iter().filter(|(cause, _)| *cause).count();
    let lines = seen.iter().filter(|(_, line)| *line).count();
    print_row(&[format!("{later} ms"), STALLS.to_string(), format!("{causes} %"), format!("{lines} %")]);
}

/// How long after the threshold the gauge of stalls in progress has risen.
pub fn gauge(stalls: usize) {
    const THRESHOLD: Duration = Duration::from_millis(25);
    let (rise, rises) = mpsc::channel();
    metrics::set_global_recorder(Gauges::new("tower_stall_in_progress_seconds", rise)).expect("the first recorder");
    let runtime = runtime();
    let monitor = StallMonitor::builder().runtime(runtime.handle().clone()).stall_threshold(THRESHOLD);
    let monitor = monitor.spawn().expect("a monitor");
    let mut late = Vec::with_capacity(stalls);
    // The first stall of a process is told apart.
    let first = usize::from(stalls > 1);
    for at in 0..first + stalls {
        // So that the stalls begin at any moment between two looks.
        std::thread::sleep(Duration::from_micros(20_000 + (at as u64 * 617) % 5_000));
        let stall = monitor.instrument("stall", async {
            let start = Instant::now();
            std::thread::sleep(4 * THRESHOLD);
            start
        });
        let start = runtime.block_on(runtime.spawn(stall)).expect("a task");
        let risen = rises.try_iter().find(|risen| *risen > start).expect("a stall that is seen");
        late.push((risen - start).as_secs_f64() * 1e3 - THRESHOLD.as_secs_f64() * 1e3);
    }
    print_late("is in `tower_stall_in_progress_seconds`, after the threshold", &late[first..]);
}

fn print_late(name: &str, late: &[f64]) {
    let at = |part| format!("{:.1} ms", quantile(late, part));
    let of = if late.len() == 1 { "the first stall of a process".to_owned() } else { format!("{} stalls", late.len()) };
    print_row(&[format!("{name} ({of})"), at(0.5), at(0.9), at(0.99), at(1.0)]);
}

/// How late the report of a stall in progress comes.
pub fn report(stalls: usize) {
    let runtime = runtime();
    let (tell, told) = mpsc::channel();
    let monitor = StallMonitor::builder().runtime(runtime.handle().clone()).on_stall(move |stall| {
        if stall.is_in_progress() {
            let _ = tell.send(stall.duration().as_secs_f64() * 1e3 - 1e3);
        }
    });
    let monitor = monitor.reports_per_minute(u32::MAX).spawn().expect("a monitor");
    for _ in 0..stalls {
        let stall = monitor.instrument("stall", async { std::thread::sleep(Duration::from_millis(1_100)) });
        runtime.block_on(runtime.spawn(stall)).expect("a task");
    }
    let late: Vec<f64> = told.iter().take(stalls).collect();
    print_late("is reported, after 1 s", &late);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}
