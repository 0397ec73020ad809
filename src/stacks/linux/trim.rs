//! Selects the calls of a stack that a report shows: from the innermost one to the handler.

use super::origin::{Origin, is_glue};
use super::paths::short_path;
use super::symbol::Symbol;
use super::tokio_frame::is_runtime;
use super::unwind::StopReason;
use crate::stall::{Frame, Location};
use crate::text::clean;

/// Returns the calls from the innermost one to the handler, which is the outermost application
/// frame of a poll.
pub(super) fn trim(symbols: &[Symbol]) -> Vec<Frame> {
    let origins: Vec<_> = symbols.iter().map(Origin::of).collect();
    let poll = within_poll(symbols, &origins);
    let outermost = origins[..poll].iter().rposition(|origin| *origin == Origin::Application);
    let is_glue = |index: &usize| is_glue(&symbols[*index], origins[*index]);
    let last = |is_wanted: &dyn Fn(usize) -> bool| (0..poll).rev().find(|index| is_wanted(*index));
    // Without an application frame, for instance in a body that a library compresses, everything up
    // to that library; else, everything inside this crate's frames.
    let end = outermost
        .or_else(|| last(&|index| origins[index] == Origin::Dependency && !is_glue(&index)))
        .or_else(|| last(&|index| origins[index] != Origin::TowerStall));
    let innermost = origins[..poll].iter().position(|origin| *origin == Origin::Application);
    // Between the application's calls, such as those of its middleware, only other libraries' are
    // of interest.
    let is_between = |index: &usize| innermost.is_some_and(|innermost| *index > innermost);
    let kept = (0..end.map_or(0, |end| end + 1))
        .filter(|index| !is_std_adapter(&symbols[*index], origins[*index]))
        .filter(|index| !is_musl_wrapper(&symbols[*index], origins[*index]))
        .filter(|index| !(is_between(index) && is_glue(index)));
    let mut frames: Vec<_> = kept.map(|index| frame(&symbols[index], origins[index])).collect();
    // Consecutive calls inside a library that exports no names for them.
    frames.dedup_by(|this, before| this.location.is_none() && this == before);
    frames
}

/// Removes frames from the middle of a stack that is too long to be read, and notes how many; notes
/// at its outer end if there is more. `omitted` is the number of calls that are missing already.
pub(super) fn shorten(frames: &mut Vec<Frame>, omitted: usize, end: StopReason) {
    const MAX_FRAMES: usize = 64;
    /// How many of them are the outermost ones.
    const OUTER: usize = 24;
    if frames.len() > MAX_FRAMES || omitted > 0 {
        let removed = (MAX_FRAMES - OUTER).min(frames.len())..frames.len().saturating_sub(OUTER);
        let removed = removed.start..removed.end.max(removed.start);
        let count = removed.len() + omitted;
        frames.splice(removed, [note(format!("({count} more calls)"))]);
    }
    let rest = match end {
        StopReason::Truncated => "(cut off: the stack is deeper than what is copied)",
        StopReason::OtherStack => "(on another stack, which was entered from the thread's own)",
        _ => return,
    };
    if !frames.is_empty() {
        frames.push(note(rest.into()));
    }
}

/// Notes which build the addresses of a program without debug information belong to.
pub(super) fn note_build_id(frames: &mut Vec<Frame>, build_id: Option<&str>) {
    frames.extend(build_id.map(|id| note(format!("(addresses of the build {id})"))));
}

fn note(function: String) -> Frame {
    Frame { function, ..Frame::default() }
}

/// Returns how many calls belong to the poll: those inside the innermost frame of tokio's runtime
/// that runs application code, if the stack reaches that far.
fn within_poll(symbols: &[Symbol], origins: &[Origin]) -> usize {
    let first = origins.iter().position(|origin| *origin == Origin::Application).unwrap_or(0);
    let runtime = symbols.iter().skip(first).position(is_runtime);
    runtime.map_or(symbols.len(), |runtime| first + runtime)
}

fn frame(symbol: &Symbol, origin: Origin) -> Frame {
    let location = symbol.file.as_ref().zip(symbol.line);
    Frame {
        function: clean(&symbol.function).into_owned(),
        location: location
            .map(|(file, line)| Location { file: clean(short_path(file)).into_owned(), line }),
        address: symbol.address.as_deref().map(|address| clean(address).into_owned()),
        is_application: origin == Origin::Application,
    }
}

/// Returns whether a call is one by which a function of musl makes its system call, which is of no
/// interest.
fn is_musl_wrapper(symbol: &Symbol, origin: Origin) -> bool {
    // The last two are the library, which does not export them.
    const WRAPPERS: [&str; 7] = [
        "__cp_end",
        "__syscall_cp",
        "__syscall_cp_asm",
        "__syscall_cp_c",
        "sccp",
        "libc.so",
        "ld-musl-x86_64.so.1",
    ];
    origin == Origin::Native && WRAPPERS.contains(&symbol.function.as_str())
}

/// Returns whether a call is an adapter of the standard library, which is of no interest.
fn is_std_adapter(symbol: &Symbol, origin: Origin) -> bool {
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
        || file.ends_with("/std/src/panicking.rs")
            && (name.contains("catch_unwind") || name.contains("do_call"))
        || file.ends_with("/std/src/panic.rs")
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::linux::origin::source_dir;
    use crate::stacks::linux::test_symbols::{application, dependency, native, std, symbol};

    fn own() -> Symbol {
        symbol("poll", &format!("{}layer/future.rs", source_dir().unwrap()), 5)
    }

    fn names(symbols: &[Symbol]) -> Vec<String> {
        trim(symbols).iter().map(|frame| frame.function().to_owned()).collect()
    }

    #[test]
    fn frames_outside_the_handler_and_adapters_are_removed() {
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
    fn dependencies_of_the_standard_library_are_library_frames() {
        let table = symbol(
            "hashbrown::raw::RawTable<T>::drop",
            "/rust/deps/hashbrown-0.16.1/src/raw/mod.rs",
            519,
        );
        let frames = trim(&[native("free"), table, application("handler", 3), own()]);
        assert!(!frames[1].is_application() && frames[2].is_application());
        assert_eq!(
            frames[1].location().unwrap().to_string(),
            "hashbrown-0.16.1/src/raw/mod.rs:519"
        );
    }

    #[test]
    fn calls_inside_a_dependency_are_kept() {
        let stack = [
            native("recv"),
            dependency("pg::query", "pg-1/src/lib.rs"),
            application("handler", 3),
            own(),
        ];
        assert_eq!(names(&stack), ["recv", "pg::query", "handler"]);
    }

    #[test]
    fn calls_that_musl_makes_a_system_call_by_are_not_shown() {
        let stack = [
            native("__syscall_cp_c"),
            native("__syscall_cp"),
            native("libc.so"),
            native("pread"),
            application("handler", 3),
            own(),
        ];
        assert_eq!(names(&stack), ["pread", "handler"]);
    }

    #[test]
    fn consecutive_calls_without_a_name_are_merged() {
        let stack = [
            native("libc.so.6"),
            native("libc.so.6"),
            native("spawn"),
            application("handler", 3),
            own(),
        ];
        assert_eq!(names(&stack), ["libc.so.6", "spawn", "handler"]);
    }

    #[test]
    fn a_long_stack_keeps_both_ends_and_says_what_is_missing() {
        let stack = |len| {
            let mut frames = trim(&[application("handler", 1)]);
            frames.resize_with(len, || frames_of("inner", 2));
            frames.rotate_left(1);
            frames
        };
        fn frames_of(function: &str, line: u32) -> Frame {
            trim(&[application(function, line)]).remove(0)
        }
        let shortened = |len, omitted, end| {
            let mut frames = stack(len);
            shorten(&mut frames, omitted, end);
            frames
        };
        assert_eq!(shortened(64, 0, StopReason::Mark), stack(64));
        let frames = shortened(600, 100, StopReason::Mark);
        assert_eq!((frames.len(), frames[40].function()), (65, "(636 more calls)"));
        assert_eq!(frames[64].function(), "handler");
        let frames = shortened(3, 0, StopReason::Truncated);
        assert_eq!(frames.len(), 4);
        assert!(frames[3].function().contains("cut off") && !frames[3].is_application());
    }

    #[test]
    fn a_handler_inlined_into_this_crate_is_found() {
        let stack = [native("recv"), application("handler", 3), own(), own()];
        assert_eq!(names(&stack), ["recv", "handler"]);
    }

    #[test]
    fn without_an_application_frame_everything_inside_this_crate_is_kept() {
        let stack =
            [native("read"), dependency("files::poll_frame", "files-1/src/lib.rs"), own(), own()];
        assert_eq!(names(&stack), ["read", "files::poll_frame"]);
        assert!(names(&[own()]).is_empty());
        assert!(names(&[]).is_empty());
    }

    #[test]
    fn glue_between_the_applications_calls_is_cut() {
        let stack = [
            native("recv"),
            dependency("hyper::client::poll", "hyper-1.0.0/src/client.rs"),
            application("middleware", 7),
            dependency("axum::middleware::call", "axum-0.8.9/src/middleware/from_fn.rs"),
            dependency("call", "tower-0.5.3/src/util/boxed.rs"),
            dependency("pg::with", "pg-1.0.0/src/lib.rs"),
            own(),
            application("outer_middleware", 12),
            dependency("hyper::proto::poll", "hyper-1.0.0/src/proto.rs"),
        ];
        let expected =
            ["recv", "hyper::client::poll", "middleware", "pg::with", "outer_middleware"];
        assert_eq!(names(&stack), expected);
    }

    #[test]
    fn a_library_alone_is_kept_up_to_its_outermost_call() {
        let stack = [
            dependency("brotli::compress", "brotli-8.0.0/src/enc.rs"),
            dependency("poll_frame", "tower-http-0.7.1/src/compression/body.rs"),
            dependency("poll_frame", "http-body-util-0.1.0/src/combinators/map_err.rs"),
            dependency("poll_frame", "axum-core-0.5.0/src/body.rs"),
            own(),
        ];
        assert_eq!(names(&stack), ["brotli::compress", "poll_frame"]);
    }

    #[test]
    fn only_the_task_of_a_whole_stack_is_kept() {
        let stack = [
            native("read"),
            application("background", 30),
            dependency("poll", "tokio-1.54.0/src/runtime/task/core.rs"),
            dependency("block_on", "tokio-1.54.0/src/runtime/scheduler/current_thread/mod.rs"),
            application("main", 4),
        ];
        assert_eq!(names(&stack), ["read", "background"]);
    }
}
