//! Recognizes the calls of tokio's runtime.
//!
//! By path, because inlined calls have short names in line tables, and by name, because a program
//! without line tables has no paths. Both are reduced to the same key: `worker.rs` in
//! `runtime/scheduler/multi_thread/` and the module of that name are
//! `runtime/scheduler/multi_thread/worker`.

use super::symbol::Symbol;

/// The part of tokio that a call belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokioFrame {
    BlockInPlace,
    /// The loop of a worker, or of a current-thread runtime.
    Worker,
    /// Waits for tasks, timers or sockets.
    Park,
    /// Polls a task, or runs a closure of the blocking pool.
    Task,
    /// The loop of a thread of the blocking pool. Workers run on such threads, too.
    Pool,
    /// Any other call of the runtime.
    Runtime,
}

/// Files that no other crate has: these are recognized in a directory of any name.
const UNMISTAKABLE: [&str; 4] = [
    "runtime/scheduler/multi_thread/",
    "runtime/scheduler/current_thread/",
    "runtime/scheduler/block_in_place",
    "runtime/blocking/pool",
];
const WORKER: [&str; 2] =
    ["runtime/scheduler/multi_thread/worker", "runtime/scheduler/current_thread"];
const DRIVERS: [&str; 7] = [
    "runtime/scheduler/multi_thread/park",
    "runtime/park",
    "runtime/driver",
    "runtime/io/driver",
    "runtime/time",
    "runtime/signal",
    "runtime/process",
];

impl TokioFrame {
    pub(super) fn of(symbol: &Symbol) -> Option<Self> {
        let key = key(symbol)?;
        let has =
            |names: &[&str]| symbol.function.split("::").any(|name| names.contains(&bare(name)));
        let is_in = |modules: &[&str]| modules.iter().any(|module| is_below(&key, module));
        let is_block_in_place = is_in(&["task/blocking", "runtime/scheduler"])
            && has(&["block_in_place"])
            || is_in(&["runtime/context/runtime_mt"]) && has(&["exit_runtime"]);
        if is_block_in_place {
            Some(Self::BlockInPlace)
        } else if !is_in(&["runtime"]) {
            None
        } else if is_in(&WORKER) && has(&["park", "park_internal", "park_yield", "park_timeout"]) {
            Some(Self::Park)
        } else if is_in(&WORKER) && has(&["run", "run_task", "block_on", "launch"]) {
            Some(Self::Worker)
        } else if is_in(&DRIVERS)
            && has(&[
                "park",
                "park_internal",
                "park_timeout",
                "park_condvar",
                "park_driver",
                "turn",
            ])
        {
            Some(Self::Park)
        } else if is_in(&["runtime/task"]) && has(&["poll", "poll_inner", "poll_future"]) {
            Some(Self::Task)
        } else if is_in(&["runtime/blocking/pool"]) && has(&["run"]) {
            Some(Self::Pool)
        } else {
            Some(Self::Runtime)
        }
    }
}

/// Returns whether a call is one of tokio's runtime.
pub(super) fn is_runtime(symbol: &Symbol) -> bool {
    TokioFrame::of(symbol).is_some_and(|frame| frame != TokioFrame::BlockInPlace)
}

/// Returns the module of tokio that a call belongs to, and what follows in its name.
fn key(symbol: &Symbol) -> Option<String> {
    let of_file = symbol.file.as_deref().and_then(|file| {
        let (before, module) = split_at_src(file)?;
        let module = module.strip_suffix(".rs")?;
        let module = module.strip_suffix("/mod").unwrap_or(module);
        let is_tokio =
            is_tokio_dir(before) || UNMISTAKABLE.iter().any(|key| module.starts_with(key));
        is_tokio.then(|| module.to_owned())
    });
    let of_name = || {
        let name = symbol.function.trim_start_matches('<');
        let is_known = symbol.file.is_none() || name.contains("::runtime::");
        Some(name.strip_prefix("tokio::").filter(|_| is_known)?.replace("::", "/"))
    };
    of_file.or_else(of_name)
}

/// Splits a path at its last directory `src`.
fn split_at_src(file: &str) -> Option<(&str, &str)> {
    file.rsplit_once("/src/").or_else(|| Some(("", file.strip_prefix("src/")?)))
}

/// Returns whether the sources of tokio are in a directory: `tokio`, `tokio-1.54.0`,
/// `crates__tokio-1.54.0`, or, as Chromium has it, `tokio/v1`.
fn is_tokio_dir(dir: &str) -> bool {
    let mut names = dir.rsplit('/');
    let is_tokio = |name: &str| {
        let crate_name = name.split_once("-1.").map_or(name, |(crate_name, _)| crate_name);
        crate_name == "tokio" || crate_name.ends_with("_tokio") || crate_name.ends_with("~tokio")
    };
    names.next().is_some_and(is_tokio) || dir.ends_with("/v1") && names.next().is_some_and(is_tokio)
}

/// Returns whether a key is that of a module, or of something inside it.
fn is_below(key: &str, module: &str) -> bool {
    key.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns a name without its type parameters.
fn bare(name: &str) -> &str {
    let name = name.split('<').next().unwrap_or_default();
    name.trim_end_matches('>')
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::linux::test_symbols::{application, symbol};

    fn by_path(function: &str, file: &str) -> Option<TokioFrame> {
        TokioFrame::of(&symbol(function, file, 9))
    }

    fn by_name(function: &str) -> Option<TokioFrame> {
        TokioFrame::of(&Symbol { function: function.into(), is_program: true, ..Symbol::default() })
    }

    #[test]
    fn the_sources_are_recognized_wherever_they_lie() {
        for root in [
            "/home/me/.cargo/registry/src/index.crates.io-1/tokio-1.54.0/",
            "/home/me/app/vendor/tokio/",
            "vendor/tokio-1.54.0/",
            "/home/me/.cargo/git/checkouts/tokio-3f1/ab12/tokio/",
            "../tokio/",
            "external/rules_rust~~crate~crates__tokio-1.54.0/",
            "/build/cargo-vendor-dir/tokio-1.54.0/",
            "/third_party/rust/tokio/v1/",
            "/deps/tokio-1.54.0/",
            "/",
            "",
        ] {
            let of = |function: &str, file: &str| by_path(function, &format!("{root}src/{file}"));
            let worker = "runtime/scheduler/multi_thread/worker.rs";
            assert_eq!(of("run_task", worker), Some(TokioFrame::Worker), "{root}");
            let pool = "runtime/blocking/pool.rs";
            assert_eq!(of("run", pool), Some(TokioFrame::Pool), "{root}");
        }
        let task = "/x/vendor/tokio/src/runtime/task/raw.rs";
        assert_eq!(by_path("poll<F, S>", task), Some(TokioFrame::Task));
        assert_eq!(
            by_path("park", "/deps/tokio-1.54.0/src/runtime/park.rs"),
            Some(TokioFrame::Park)
        );
        assert_eq!(by_path("park", "/home/me/app/src/runtime/park.rs"), None);
        assert_eq!(by_path("poll", "/deps/tokio-util-0.7.1/src/runtime/task/raw.rs"), None);
    }

    #[test]
    fn the_names_of_both_mangling_schemes_are_recognized() {
        for (name, expected) in [
            (
                "tokio::runtime::scheduler::multi_thread::worker::Context::run_task",
                TokioFrame::Worker,
            ),
            ("<tokio::runtime::scheduler::multi_thread::worker::Context>::run", TokioFrame::Worker),
            (
                "tokio::runtime::scheduler::current_thread::CurrentThread::block_on",
                TokioFrame::Worker,
            ),
            (
                "tokio::runtime::scheduler::multi_thread::worker::Context::park_internal",
                TokioFrame::Park,
            ),
            (
                "tokio::runtime::scheduler::multi_thread::park::Inner::park_condvar",
                TokioFrame::Park,
            ),
            ("<tokio::runtime::io::driver::Driver>::turn", TokioFrame::Park),
            ("tokio::runtime::task::raw::poll", TokioFrame::Task),
            (
                "tokio::runtime::task::raw::poll::<app::f::{closure#0}, alloc::sync::Arc<_>>",
                TokioFrame::Task,
            ),
            ("tokio::runtime::blocking::pool::Inner::run", TokioFrame::Pool),
            ("tokio::runtime::context::runtime::enter_runtime", TokioFrame::Runtime),
            ("tokio::task::blocking::block_in_place", TokioFrame::BlockInPlace),
            (
                "tokio::runtime::scheduler::multi_thread::worker::block_in_place",
                TokioFrame::BlockInPlace,
            ),
            (
                "tokio::runtime::context::runtime_mt::exit_runtime::<f, ()>",
                TokioFrame::BlockInPlace,
            ),
        ] {
            assert_eq!(by_name(name), Some(expected), "{name}");
        }
        assert_eq!(by_name("tokio::task::blocking::spawn_blocking"), None);
        assert_eq!(by_name("tokio::net::tcp::TcpStream::connect"), None);
        assert_eq!(by_name("app::tokio::runtime::task::raw::poll"), None);
        assert_eq!(by_name("app::block_in_place"), None);
    }

    #[test]
    fn only_block_in_place_of_tokio_is_recognized() {
        let file = "/deps/tokio-1.54.0/src/task/blocking.rs";
        for name in ["tokio::task::blocking::block_in_place<fn(), ()>", "block_in_place<fn(), ()>"]
        {
            assert_eq!(by_path(name, file), Some(TokioFrame::BlockInPlace));
        }
        assert_eq!(by_path("spawn_blocking", file), None);
        assert_eq!(TokioFrame::of(&application("app::block_in_place", 1)), None);
    }

    /// Waking a task of a worker happens on any thread.
    #[test]
    fn a_call_of_the_scheduler_is_not_that_of_a_worker() {
        let schedule = "tokio::runtime::scheduler::multi_thread::worker::Handle::schedule_task";
        assert_eq!(by_name(schedule), Some(TokioFrame::Runtime));
        let block_on = "tokio::runtime::scheduler::multi_thread::MultiThread::block_on";
        assert_eq!(by_name(block_on), Some(TokioFrame::Runtime));
    }
}
