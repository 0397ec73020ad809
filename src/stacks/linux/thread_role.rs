//! What a stack shows of its thread.

use super::symbol::Symbol;
use super::tokio_frame::TokioFrame;
use super::unwind::{CallStack, StopReason};
use crate::stacks::ThreadRole;

/// Returns the role of the thread with these calls.
pub(super) fn role(symbols: &[Symbol], calls: &CallStack) -> ThreadRole {
    let frames: Vec<_> = symbols.iter().map(TokioFrame::of).collect();
    if frames.contains(&Some(TokioFrame::BlockInPlace)) {
        return ThreadRole::HandedOff;
    }
    match calls.end {
        StopReason::Mark if all_are_known(symbols) => ThreadRole::Worker,
        StopReason::OutermostFrame if calls.is_whole => of_whole_stack(symbols, &frames),
        _ => ThreadRole::Unknown,
    }
}

/// Returns the role of a thread of which all calls are known, up to the outermost one.
fn of_whole_stack(symbols: &[Symbol], frames: &[Option<TokioFrame>]) -> ThreadRole {
    let is = |kind: TokioFrame| move |frame: &Option<TokioFrame>| *frame == Some(kind);
    let has_lines = all_are_known(symbols);
    if let Some(worker) = frames.iter().position(is(TokioFrame::Worker)) {
        let inside = &frames[..worker];
        let is_parked = inside.iter().any(is(TokioFrame::Park));
        let runs_task = inside.iter().any(is(TokioFrame::Task));
        return match (is_parked && !runs_task, has_lines) {
            (true, _) => ThreadRole::OffWorker,
            (false, true) => ThreadRole::Worker,
            // `block_in_place` may be inlined.
            (false, false) => ThreadRole::Unknown,
        };
    }
    let is_off_worker = if frames.iter().any(is(TokioFrame::Pool)) {
        // The loop of a worker may be inlined. A worker that runs a task polls two, because its
        // loop is one of the pool; and polls go through a table of functions, so that they are
        // never inlined.
        let polls = symbols.iter().filter(|symbol| is_raw_poll(symbol)).count();
        has_lines || polls <= 1 && symbols.iter().all(has_name)
    } else {
        has_lines && frames.iter().all(Option::is_none)
    };
    if is_off_worker { ThreadRole::OffWorker } else { ThreadRole::Unknown }
}

fn is_raw_poll(symbol: &Symbol) -> bool {
    symbol.function.starts_with("tokio::runtime::task::raw::poll")
}

/// Returns whether the calls that are inlined are known, too: those of C have no line tables, but
/// there is no Rust in them.
fn all_are_known(symbols: &[Symbol]) -> bool {
    let is_native = |symbol: &Symbol| has_name(symbol) && !symbol.function.contains("::");
    symbols.iter().all(|symbol| !symbol.is_program || symbol.file.is_some() || is_native(symbol))
}

fn has_name(symbol: &Symbol) -> bool {
    !symbol.is_program || !symbol.is_unnamed
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::linux::test_symbols::{application, dependency, named, native, unnamed};

    fn stack(end: StopReason) -> CallStack {
        CallStack { call_sites: Vec::new(), alternatives: Vec::new(), end, is_whole: true }
    }

    fn whole(symbols: &[Symbol]) -> ThreadRole {
        role(symbols, &stack(StopReason::OutermostFrame))
    }

    fn tokio(function: &str, file: &str) -> Symbol {
        dependency(function, &format!("tokio-1.54.0/src/runtime/{file}"))
    }

    fn worker() -> Symbol {
        tokio("run", "scheduler/multi_thread/worker.rs")
    }

    fn pool() -> Symbol {
        tokio("run", "blocking/pool.rs")
    }

    fn task() -> Symbol {
        tokio("poll<F, S>", "task/raw.rs")
    }

    #[test]
    fn a_worker_that_runs_a_task_is_one() {
        let stack = [native("read"), application("task", 1), task(), worker(), task(), pool()];
        assert_eq!(whole(&stack), ThreadRole::Worker);
        let root = tokio("block_on", "scheduler/current_thread/mod.rs");
        assert_eq!(whole(&[native("read"), application("main", 1), root]), ThreadRole::Worker);
    }

    #[test]
    fn a_thread_that_runs_no_task_of_a_worker_is_off_the_worker() {
        let park = tokio("park", "scheduler/multi_thread/park.rs");
        assert_eq!(
            whole(&[native("syscall"), park, worker(), task(), pool()]),
            ThreadRole::OffWorker
        );
        let closure = [native("read"), application("work", 1), task(), pool()];
        assert_eq!(whole(&closure), ThreadRole::OffWorker);
        assert_eq!(whole(&[native("syscall"), pool()]), ThreadRole::OffWorker);
        assert_eq!(whole(&[native("read"), application("main", 3)]), ThreadRole::OffWorker);
    }

    #[test]
    fn without_lines_only_names_are_evidence() {
        let [worker, poll, pool] = [
            "tokio::runtime::scheduler::multi_thread::worker::Context::run",
            "tokio::runtime::task::raw::poll",
            "tokio::runtime::blocking::pool::Inner::run",
        ]
        .map(named);
        let handler = named("app::handler");
        let running =
            [native("read"), handler.clone(), poll.clone(), worker, poll.clone(), pool.clone()];
        assert_eq!(whole(&running), ThreadRole::Unknown, "`block_in_place` may be inlined");
        let inlined = [native("read"), handler.clone(), poll.clone(), poll.clone(), pool.clone()];
        assert_eq!(whole(&inlined), ThreadRole::Unknown, "the worker's loop may be inlined");
        let closure = [native("read"), handler.clone(), poll, pool.clone()];
        assert_eq!(whole(&closure), ThreadRole::OffWorker);
        assert_eq!(whole(&[native("read"), handler.clone()]), ThreadRole::Unknown);
        let in_place = named("tokio::task::blocking::block_in_place");
        assert_eq!(whole(&[native("read"), in_place, handler]), ThreadRole::HandedOff);
        assert_eq!(whole(&[native("read"), unnamed(), unnamed()]), ThreadRole::Unknown);
        assert_eq!(whole(&[native("read"), unnamed(), pool]), ThreadRole::Unknown);
    }

    #[test]
    fn a_stack_that_ends_early_shows_only_a_hand_off() {
        let in_place = dependency("block_in_place<F, ()>", "tokio-1.54.0/src/task/blocking.rs");
        for end in [StopReason::Mark, StopReason::Truncated, StopReason::OutermostFrame] {
            let handed_off = [native("read"), application("f", 1), in_place.clone()];
            assert_eq!(role(&handed_off, &stack(end)), ThreadRole::HandedOff);
        }
        let handler = [native("read"), application("handler", 1)];
        assert_eq!(role(&handler, &stack(StopReason::Truncated)), ThreadRole::Unknown);
        let inside = CallStack { is_whole: false, ..stack(StopReason::OutermostFrame) };
        assert_eq!(role(&handler, &inside), ThreadRole::Unknown, "on a coroutine's stack");
    }

    #[test]
    fn a_poll_of_which_all_calls_are_known_is_not_handed_off() {
        let mark = stack(StopReason::Mark);
        let handler = application("handler", 1);
        let c = named("sqlite3_step");
        assert_eq!(role(&[native("read"), c, handler.clone()], &mark), ThreadRole::Worker);
        let inlining = named("app::handler");
        assert_eq!(role(&[native("read"), inlining], &mark), ThreadRole::Unknown);
        assert_eq!(role(&[native("read"), unnamed(), handler], &mark), ThreadRole::Unknown);
    }
}
