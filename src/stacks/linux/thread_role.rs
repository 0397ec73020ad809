//! What a stack shows of its thread and its program.

use super::symbols::Symbol;

/// Returns whether a stack is inside `tokio::task::block_in_place`.
pub(super) fn is_inside_block_in_place(symbols: &[Symbol]) -> bool {
    symbols.iter().any(|symbol| {
        let is_tokio = symbol.file.as_ref().is_some_and(|file| file.contains("/tokio-"));
        let name = symbol.function.split('<').next().unwrap_or_default();
        let is_block_in_place = name == "block_in_place" || name.ends_with("::block_in_place");
        is_block_in_place && (is_tokio || name.starts_with("tokio::"))
    })
}

/// Returns whether the program was built without line tables.
pub(super) fn lacks_lines(symbols: &[Symbol]) -> bool {
    let mut own = symbols.iter().filter(|symbol| symbol.is_program).peekable();
    own.peek().is_some() && own.all(|symbol| symbol.line.is_none())
}

/// Returns whether a whole stack is that of a worker thread that runs a task: not of an idle
/// worker, and not of a thread of the blocking pool.
pub(super) fn is_on_worker(symbols: &[Symbol]) -> bool {
    let is_scheduler = |symbol: &Symbol| {
        is_runtime(symbol)
            && symbol.file.as_ref().is_some_and(|file| file.contains("/src/runtime/scheduler/"))
    };
    let is_parked = |symbol: &Symbol| {
        let file = symbol.file.as_deref().unwrap_or_default();
        is_runtime(symbol) && (file.ends_with("/park.rs") || file.ends_with("/driver.rs"))
    };
    symbols.iter().any(is_scheduler) && !symbols.iter().any(is_parked)
}

/// Returns whether a call is one of tokio's runtime.
pub(super) fn is_runtime(symbol: &Symbol) -> bool {
    symbol
        .file
        .as_ref()
        .is_some_and(|file| file.contains("/tokio-1.") && file.contains("/src/runtime/"))
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::linux::test_symbols::{application, dependency, native};

    #[test]
    fn only_a_worker_that_runs_a_task_is_recognized() {
        let tokio = |file: &str| dependency("f", &format!("tokio-1.54.0/src/runtime/{file}"));
        let task = [
            native("read"),
            application("task", 1),
            tokio("task/core.rs"),
            tokio("scheduler/multi_thread/worker.rs"),
        ];
        assert!(is_on_worker(&task));
        let idle = [native("syscall"), tokio("park.rs"), tokio("scheduler/multi_thread/worker.rs")];
        assert!(!is_on_worker(&idle));
        assert!(!is_on_worker(&[
            native("read"),
            application("work", 1),
            tokio("task/core.rs"),
            tokio("blocking/pool.rs")
        ]));
        assert!(!is_on_worker(&[native("syscall"), tokio("blocking/pool.rs")]));
    }

    #[test]
    fn only_block_in_place_of_tokio_is_recognized() {
        let stack = |name: &str| {
            vec![native("read"), dependency(name, "tokio-1.54.0/src/task/blocking.rs")]
        };
        assert!(is_inside_block_in_place(&stack(
            "tokio::task::blocking::block_in_place<fn(), ()>"
        )));
        assert!(is_inside_block_in_place(&stack("block_in_place<fn(), ()>")));
        assert!(!is_inside_block_in_place(&stack("tokio::task::spawn_blocking")));
        assert!(!is_inside_block_in_place(&[application("app::block_in_place", 1)]));
    }

    #[test]
    fn a_program_without_line_tables_is_recognized() {
        let bare = Symbol { function: "0x10".into(), is_program: true, ..Symbol::default() };
        assert!(lacks_lines(&[native("read"), bare.clone()]));
        assert!(!lacks_lines(&[bare, application("main", 3)]));
        assert!(!lacks_lines(&[native("read")]));
    }
}
