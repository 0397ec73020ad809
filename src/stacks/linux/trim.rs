//! Which calls of a stack a reader wants to see: those from the innermost one out to the handler.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::symbols::Symbol;
use crate::stall::{Frame, Location};

/// Whose code a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Application,
    /// Of the standard library.
    Std,
    Dependency,
    /// Written by a build script.
    Generated,
    /// This crate's.
    Own,
    /// Of a C library, or of nobody known.
    Native,
}

/// The calls from the innermost one out to the handler, which is the outermost of the application's within a poll.
pub(super) fn trim(symbols: &[Symbol]) -> Vec<Frame> {
    let origins: Vec<_> = symbols.iter().map(Origin::of).collect();
    let poll = within_poll(symbols, &origins);
    let outermost = origins[..poll].iter().rposition(|origin| *origin == Origin::Application);
    // Without code of the application, as in a body that a library streams, everything up to the meter.
    let end = outermost.map_or_else(|| origins[..poll].iter().rposition(|origin| *origin != Origin::Own), Some);
    let kept = symbols.iter().zip(&origins).take(end.map_or(0, |end| end + 1));
    let kept = kept.filter(|(symbol, origin)| !is_glue(symbol, **origin));
    let mut frames: Vec<_> = kept.map(|(symbol, origin)| frame(symbol, *origin)).collect();
    // Calls inside a library that does not name them.
    frames.dedup_by(|this, before| this.location.is_none() && this == before);
    frames
}

/// Whether a stack lies inside `tokio::task::block_in_place`.
pub(super) fn is_inside_block_in_place(symbols: &[Symbol]) -> bool {
    symbols.iter().any(|symbol| {
        let is_tokio = symbol.file.as_ref().is_some_and(|file| file.contains("/tokio-"));
        let name = symbol.function.split('<').next().unwrap_or_default();
        let is_it = name == "block_in_place" || name.ends_with("::block_in_place");
        is_it && (is_tokio || name.starts_with("tokio::"))
    })
}

/// Whether the program was built without line tables.
pub(super) fn lacks_lines(symbols: &[Symbol]) -> bool {
    let mut own = symbols.iter().filter(|symbol| symbol.is_program).peekable();
    own.peek().is_some() && own.all(|symbol| symbol.line.is_none())
}

/// Whether a whole stack is that of a worker that runs a task, and not of one that waits for something to do, nor of the pool for
/// blocking work.
pub(super) fn is_on_worker(symbols: &[Symbol]) -> bool {
    let is_scheduler = |symbol: &Symbol| {
        is_runtime(symbol) && symbol.file.as_ref().is_some_and(|file| file.contains("/src/runtime/scheduler/"))
    };
    let is_parked = |symbol: &Symbol| {
        let file = symbol.file.as_deref().unwrap_or_default();
        is_runtime(symbol) && (file.ends_with("/park.rs") || file.ends_with("/driver.rs"))
    };
    symbols.iter().any(is_scheduler) && !symbols.iter().any(is_parked)
}

/// How many calls lie within the poll: those inside the innermost of tokio's own frames that runs the application's code, where the
/// stack reaches so far out.
fn within_poll(symbols: &[Symbol], origins: &[Origin]) -> usize {
    let first = origins.iter().position(|origin| *origin == Origin::Application).unwrap_or(0);
    let runtime = symbols.iter().skip(first).position(is_runtime);
    runtime.map_or(symbols.len(), |runtime| first + runtime)
}

fn is_runtime(symbol: &Symbol) -> bool {
    symbol.file.as_ref().is_some_and(|file| file.contains("/tokio-1.") && file.contains("/src/runtime/"))
}

/// Where the standard library's own dependencies were when it was built.
const OF_STD: &str = "/rust/deps/";

fn frame(symbol: &Symbol, origin: Origin) -> Frame {
    let location = symbol.file.as_ref().zip(symbol.line);
    Frame {
        function: symbol.function.clone(),
        location: location.map(|(file, line)| Location { file: shown(file), line }),
        is_application: origin == Origin::Application,
    }
}

/// A file's path without what every reader knows: the standard library's and dependencies' from their own name on, and a file below the
/// directory in which the process was when it first told of one, from there on.
fn shown(file: &str) -> String {
    static HERE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let after = |mark: &str| file.split_once(mark).map(|(_, rest)| rest);
    let of_std = after("/rustc/").and_then(|rest| Some(rest.split_once("/library/")?.1));
    let of_dependency = || after("/registry/src/").and_then(|rest| Some(rest.split_once('/')?.1));
    let of_application = || {
        let here = HERE.get_or_init(|| std::env::current_dir().ok().filter(|here| here.parent().is_some()));
        Path::new(file).strip_prefix(here.as_ref()?).ok()?.to_str()
    };
    let of_stds_dependency = || file.strip_prefix(OF_STD);
    let shown = of_std.or_else(of_dependency).or_else(of_stds_dependency).or_else(of_application);
    without_detours(shown.unwrap_or(file))
}

/// `a/../b` is `b`: the attribute `path` of a module leads there.
fn without_detours(file: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in file.split('/') {
        match (part, parts.last()) {
            ("..", Some(&last)) if !matches!(last, "" | "." | "..") => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// Calls that the compiler or std makes on the way to the next one, and that say nothing.
fn is_glue(symbol: &Symbol, origin: Origin) -> bool {
    if origin != Origin::Std {
        return false;
    }
    let name = symbol.function.as_str();
    let file = symbol.file.as_deref().unwrap_or_default();
    name.contains("ops::function::Fn")
        || name.starts_with("call_once")
        || name.contains("__rust_begin_short_backtrace")
        || name.contains("panic::unwind_safe::AssertUnwindSafe")
        || file.ends_with("/core/src/future/future.rs")
        || file.ends_with("/core/src/ops/function.rs")
        || file.ends_with("/std/src/panicking.rs") && (name.contains("catch_unwind") || name.contains("do_call"))
        || file.ends_with("/std/src/panic.rs")
}

// === impl Origin ===

impl Origin {
    fn of(symbol: &Symbol) -> Self {
        let Some(file) = symbol.file.as_deref() else {
            return if symbol.is_program { Self::of_name(&symbol.function) } else { Self::Native };
        };
        let has = |part: &str| file.contains(part);
        if has("/rustc/") || has("/lib/rustlib/src/rust/") {
            Self::Std
        } else if file.starts_with(OF_STD) || has("/registry/src/") || has("/git/checkouts/") || has("/vendor/") {
            Self::Dependency
        } else if has("/build/") && has("/out/") && has("/target/") {
            Self::Generated
        } else if own_folder().is_some_and(|own| file.starts_with(own)) {
            Self::Own
        } else if file.ends_with(".rs") {
            // The compiler's own code in the application has no line.
            if symbol.line.is_some() { Self::Application } else { Self::Generated }
        } else {
            Self::Native
        }
    }

    /// Without line tables the name has to do.
    fn of_name(function: &str) -> Self {
        const STD: [&str; 5] = ["std::", "core::", "alloc::", "<std::", "<core::"];
        const OTHERS: [&str; 10] =
            ["tokio::", "<tokio::", "hyper", "<hyper", "axum", "<axum", "tower::", "<tower::", "futures_", "<futures_"];
        let begins = |names: &[&str]| names.iter().any(|name| function.starts_with(name));
        if begins(&STD) {
            Self::Std
        } else if begins(&OTHERS) {
            Self::Dependency
        } else if begins(&["tower_stall::", "<tower_stall::"]) {
            Self::Own
        } else {
            Self::Native
        }
    }
}

/// The folder of this crate's sources, as the compiler has written it into the line tables.
fn own_folder() -> Option<&'static str> {
    const BELOW: &str = "stacks/linux/trim.rs";
    static FOLDER: OnceLock<Option<String>> = OnceLock::new();
    let find = || {
        let own = file!().strip_suffix(BELOW)?;
        let is_relative = !own.starts_with('/');
        Some(if is_relative { format!("{}/{own}", env!("CARGO_MANIFEST_DIR")) } else { own.to_owned() })
    };
    FOLDER.get_or_init(find).as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STD: &str = "/rustc/abc/library/";
    const DEPENDENCY: &str = "/home/me/.cargo/registry/src/index.crates.io-1/";

    fn symbol(function: &str, file: &str, line: u32) -> Symbol {
        let line = (line != 0).then_some(line);
        Symbol { function: function.into(), file: Some(file.into()), line, is_program: true }
    }

    fn std(function: &str, file: &str) -> Symbol {
        symbol(function, &format!("{STD}{file}"), 9)
    }

    fn dependency(function: &str, file: &str) -> Symbol {
        symbol(function, &format!("{DEPENDENCY}{file}"), 9)
    }

    fn application(function: &str, line: u32) -> Symbol {
        symbol(function, "/home/me/app/src/main.rs", line)
    }

    fn own() -> Symbol {
        symbol("poll", &format!("{}meter/mod.rs", own_folder().unwrap()), 5)
    }

    fn native(function: &str) -> Symbol {
        Symbol { function: function.into(), ..Symbol::default() }
    }

    fn names(symbols: &[Symbol]) -> Vec<String> {
        trim(symbols).iter().map(|frame| frame.function().to_owned()).collect()
    }

    #[test]
    fn nothing_above_the_handler_and_no_glue_within() {
        let stack = [
            native("clock_nanosleep"),
            std("std::thread::sleep", "std/src/thread/mod.rs"),
            application("inner", 7),
            std("poll<alloc::boxed::Box<F>>", "core/src/future/future.rs"),
            application("handler", 12),
            dependency("axum::handler::Handler::call", "axum-0.8.9/src/handler/mod.rs"),
            dependency("hyper::proto::poll", "hyper-1.0.0/src/proto.rs"),
            own(),
        ];
        assert_eq!(names(&stack), ["clock_nanosleep", "std::thread::sleep", "inner", "handler"]);
        let frames = trim(&stack);
        assert!(!frames[1].is_application() && frames[2].is_application());
        assert_eq!(frames[2].location().unwrap().to_string(), "/home/me/app/src/main.rs:7");
    }

    #[test]
    fn what_the_standard_library_depends_on_is_nobodys_application() {
        let table = symbol("hashbrown::raw::RawTable<T>::drop", "/rust/deps/hashbrown-0.16.1/src/raw/mod.rs", 519);
        let frames = trim(&[native("free"), table, application("handler", 3), own()]);
        assert!(!frames[1].is_application() && frames[2].is_application());
        assert_eq!(frames[1].location().unwrap().to_string(), "hashbrown-0.16.1/src/raw/mod.rs:519");
    }

    #[test]
    fn blocking_inside_a_dependency_keeps_its_calls() {
        let stack = [native("recv"), dependency("pg::query", "pg-1/src/lib.rs"), application("handler", 3), own()];
        assert_eq!(names(&stack), ["recv", "pg::query", "handler"]);
    }

    #[test]
    fn calls_that_a_library_does_not_name_are_one() {
        let stack = [native("libc.so.6"), native("libc.so.6"), native("spawn"), application("handler", 3), own()];
        assert_eq!(names(&stack), ["libc.so.6", "spawn", "handler"]);
    }

    #[test]
    fn a_handler_inlined_into_the_meter_is_found() {
        let stack = [native("recv"), application("handler", 3), own(), own()];
        assert_eq!(names(&stack), ["recv", "handler"]);
    }

    #[test]
    fn without_code_of_the_application_everything_up_to_the_meter_is_kept() {
        let stack = [native("read"), dependency("files::poll_frame", "files-1/src/lib.rs"), own(), own()];
        assert_eq!(names(&stack), ["read", "files::poll_frame"]);
        assert!(names(&[own()]).is_empty());
        assert!(names(&[]).is_empty());
    }

    #[test]
    fn of_a_whole_stack_only_the_task_is_kept_and_not_main() {
        let stack = [
            native("read"),
            application("background", 30),
            dependency("poll", "tokio-1.54.0/src/runtime/task/core.rs"),
            dependency("block_on", "tokio-1.54.0/src/runtime/scheduler/current_thread/mod.rs"),
            application("main", 4),
        ];
        assert_eq!(names(&stack), ["read", "background"]);
    }

    #[test]
    fn paths_are_shown_from_where_they_say_something() {
        assert_eq!(shown(&format!("{STD}std/src/io/mod.rs")), "std/src/io/mod.rs");
        assert_eq!(shown(&format!("{DEPENDENCY}pg-1.0.0/src/lib.rs")), "pg-1.0.0/src/lib.rs");
        assert_eq!(shown(&format!("{}/src/main.rs", std::env::current_dir().unwrap().display())), "src/main.rs");
        assert_eq!(shown("/elsewhere/src/main.rs"), "/elsewhere/src/main.rs");
        assert_eq!(shown("examples/demo/../common/burn.rs"), "examples/common/burn.rs");
        assert_eq!(shown("/a/b/../../c.rs"), "/c.rs");
        assert_eq!(shown("../../c.rs"), "../../c.rs");
    }

    #[test]
    fn whose_code_it_is() {
        let origin = |file: &str, line| Origin::of(&symbol("f", file, line));
        assert_eq!(origin("/home/me/app/src/main.rs", 1), Origin::Application);
        assert_eq!(origin("src/main.rs", 1), Origin::Application);
        assert_eq!(origin("/home/me/app/src/main.rs", 0), Origin::Generated);
        assert_eq!(origin("/home/me/app/target/debug/build/api-1f/out/api.rs", 3), Origin::Generated);
        assert_eq!(origin("/home/me/.cargo/git/checkouts/x-1/src/lib.rs", 3), Origin::Dependency);
        assert_eq!(origin("/usr/lib/rustlib/src/rust/library/std/src/io.rs", 3), Origin::Std);
        assert_eq!(origin("./nptl/futex.c", 3), Origin::Native);
        assert_eq!(Origin::of(&native("futex_wait")), Origin::Native);
    }

    #[test]
    fn a_worker_is_told_from_a_thread_that_waits_or_does_blocking_work() {
        let tokio = |file: &str| dependency("f", &format!("tokio-1.54.0/src/runtime/{file}"));
        let task =
            [native("read"), application("task", 1), tokio("task/core.rs"), tokio("scheduler/multi_thread/worker.rs")];
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
    fn block_in_place_is_tokio_s() {
        let stack = |name: &str| vec![native("read"), dependency(name, "tokio-1.54.0/src/task/blocking.rs")];
        assert!(is_inside_block_in_place(&stack("tokio::task::blocking::block_in_place<fn(), ()>")));
        assert!(is_inside_block_in_place(&stack("block_in_place<fn(), ()>")));
        assert!(!is_inside_block_in_place(&stack("tokio::task::spawn_blocking")));
        assert!(!is_inside_block_in_place(&[application("app::block_in_place", 1)]));
    }

    #[test]
    fn a_program_without_line_tables_is_recognised() {
        let bare = Symbol { function: "0x10".into(), is_program: true, ..Symbol::default() };
        assert!(lacks_lines(&[native("read"), bare.clone()]));
        assert!(!lacks_lines(&[bare, application("main", 3)]));
        assert!(!lacks_lines(&[native("read")]));
    }
}
