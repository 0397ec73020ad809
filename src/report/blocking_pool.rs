//! The report of a blocking pool without a free thread: what its threads do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::log::Log;
use super::message::BlockingPoolReport;
use crate::os::{self, Tid};
use crate::shard::PollId;
use crate::stacks::{CapturePool, CaptureRequest, StackSampler, Symbolizer, TargetThread};
use crate::stall::Frame;
use crate::state::{MonitorState, TOKIO_THREAD_NAME};

/// How long a closure must have waited for a thread.
const FIRST_REPORT_AGE: Duration = Duration::from_secs(1);
/// The most threads that are sampled.
const MAX_THREADS: usize = 512;
/// The most distinct stacks that a report shows.
const MAX_STACKS: usize = 8;

/// Reports a pool in which a closure waits, if that is due.
pub(super) fn report_if_due<'a>(
    monitor: &MonitorState,
    symbolizer: impl FnOnce() -> &'a mut Symbolizer,
    log: &Log,
) {
    let wait = &monitor.blocking_pool_wait;
    wait.reset_if_idle();
    let first = monitor.clock.ticks(FIRST_REPORT_AGE);
    let Some(age) = wait.due(first, monitor.clock.now()) else { return };
    wait.set_reported(age);
    let threads = pool_threads(monitor);
    let report = BlockingPoolReport {
        runtime: Arc::clone(&monitor.runtime_name),
        waiting: monitor.clock.duration(age),
        threads: threads.len(),
        stacks: stacks_text(&threads, symbolizer()),
    };
    log.send_blocking_pool(report);
}

/// Returns the threads that seem to be the pool's: those that have the name of a worker, but are
/// not known as one.
fn pool_threads(monitor: &MonitorState) -> Vec<Tid> {
    let workers: Vec<_> = (0..monitor.unattributed.len())
        .filter_map(|worker| monitor.worker_threads.thread(worker))
        .collect();
    let all = os::threads();
    let is_worker = |thread: &Tid| workers.contains(thread);
    let named = |name: &str| {
        name == TOKIO_THREAD_NAME
            || all.iter().any(|(worker, other)| is_worker(worker) && other == name)
    };
    let threads = all.iter().filter(|(thread, name)| !is_worker(thread) && named(name));
    threads.map(|(thread, _)| *thread).take(MAX_THREADS).collect()
}

fn stacks_text(threads: &[Tid], symbolizer: &mut Symbolizer) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    let Ok(mut sampler) = StackSampler::new(false) else { return String::new() };
    let pool = CapturePool::new(true, 1);
    for &thread in threads {
        let text = stack_of(thread, &mut sampler, &pool, symbolizer);
        *counts.entry(text).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut text = String::new();
    for (stack, count) in counts.iter().take(MAX_STACKS) {
        let threads = if *count == 1 { "1 thread" } else { &format!("{count} threads") };
        let _ = writeln!(text, "{threads}: {stack}");
    }
    if counts.len() > MAX_STACKS {
        let _ = writeln!(text, "and {} other stacks", counts.len() - MAX_STACKS);
    }
    text.trim_end().to_owned()
}

/// Describes what a thread does.
fn stack_of(
    thread: Tid,
    sampler: &mut StackSampler,
    pool: &CapturePool,
    symbolizer: &mut Symbolizer,
) -> String {
    let (Some(sched_stat), Some(state)) = (os::sched_stat(thread), os::thread_state(thread)) else {
        return "ended".to_owned();
    };
    if !state.is_blocked() {
        return "running".to_owned();
    }
    let id = PollId { shard: usize::MAX, start: u64::MAX };
    let request = CaptureRequest { id, age: 0, stack_mark: u64::MAX };
    let target = TargetThread { tid: thread, state, sched_stat };
    let is_captured = sampler.capture(pool, request, &target, |_| true);
    let capture = is_captured.and_then(Result::ok).and_then(|()| pool.next());
    let Some(capture) = capture else { return "blocked".to_owned() };
    let frames = symbolizer.symbolize(&capture).ok().map(|stack| stack.frames);
    pool.finish(capture);
    match frames {
        Some(frames) if !frames.is_empty() => frames_text(&frames),
        _ => "blocked".to_owned(),
    }
}

fn frames_text(frames: &[Frame]) -> String {
    let lines: Vec<_> = frames.iter().map(|frame| format!("\n    {frame}")).collect();
    lines.concat()
}
