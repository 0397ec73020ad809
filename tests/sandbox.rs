//! What the crate does with the system calls and the files of `/proc` that a sandbox denies: it uses
//! what is left, and says what it lacks.
#![allow(clippy::unwrap_used, missing_docs, unsafe_code)]
#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu", feature = "stacks"))]

mod support;

use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tower_stall::{Cause, Stall, StallMonitor};

use self::support::{ended, in_own_process, poll_until, runtime};

// === What is denied ===

/// Whether `/proc` lacks what that of gVisor lacks.
static HAS_SMALL_PROC: AtomicBool = AtomicBool::new(false);

/// Replaces the function of libc that std opens files with.
///
/// # Safety
///
/// That of `open(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    // SAFETY: the caller passes a path that ends with a zero byte.
    let name = unsafe { CStr::from_ptr(path) }.to_bytes();
    let is_missing = |end: &[u8]| name.starts_with(b"/proc/self/task/") && name.ends_with(end);
    if HAS_SMALL_PROC.load(Ordering::Relaxed)
        && (is_missing(b"/syscall") || is_missing(b"/schedstat"))
    {
        // SAFETY: the pointer is to a variable of this thread.
        unsafe { *libc::__errno_location() = libc::ENOENT };
        return -1;
    }
    let mode = libc::c_uint::from(mode);
    // SAFETY: as for this function.
    unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) as c_int }
}

/// Makes a system call fail with an error, for all threads and for ever.
fn deny(syscall: libc::c_long, error: c_int) {
    let error = libc::SECCOMP_RET_ERRNO | u32::try_from(error).unwrap();
    filter(&[u32::try_from(syscall).unwrap()], error, libc::SECCOMP_RET_ALLOW);
}

/// Installs a filter for all threads and for ever: what happens with the system calls that are
/// listed, and with all others.
fn filter(listed: &[u32], action: u32, otherwise: u32) {
    let instruction = |code: u32, jf, k| {
        let code = u16::try_from(code).unwrap();
        libc::sock_filter { code, jt: 0, jf, k }
    };
    let result = |action| instruction(libc::BPF_RET | libc::BPF_K, 0, action);
    let mut filter = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    for &number in listed {
        filter.extend([instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, number)]);
        filter.extend([result(action)]);
    }
    filter.push(result(otherwise));
    let len = u16::try_from(filter.len()).unwrap();
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: the calls read the filter through a valid pointer, and write nothing.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
        assert_eq!(libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program), 0);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    BeforeSpawn,
    AfterSpawn,
}

// === What is seen of it ===

/// Returns a stall of a task that sleeps, and one of a task that computes.
fn stalls(signals: bool, when: When, deny: impl Fn()) -> [Stall; 2] {
    let runtime = runtime(2);
    if when == When::BeforeSpawn {
        deny();
    }
    let spawn = async { StallMonitor::builder().stack_signals(signals).spawn().unwrap() };
    let monitor = runtime.block_on(spawn);
    if when == When::AfterSpawn {
        // The first stack was captured before.
        stall(&runtime, &monitor, "before", sleep);
        deny();
    }
    let sleeps = stall(&runtime, &monitor, "sleeps", sleep);
    // On a busy host, a thread that computes may be off-CPU for most of the time.
    let attempts = (0..20).map(|number| format!("computes {number}"));
    let mut computes = attempts.map(|name| stall(&runtime, &monitor, &name, compute));
    let first = computes.next().unwrap();
    let is_cpu = |stall: &Stall| stall.cause() == Cause::Cpu;
    let computes = if is_cpu(&first) { first } else { computes.find(is_cpu).unwrap_or(first) };
    [sleeps, computes]
}

fn stall(
    runtime: &tokio::runtime::Runtime,
    monitor: &StallMonitor,
    name: &str,
    work: fn(),
) -> Stall {
    let task = runtime.spawn(monitor.instrument(name, async move { work() }));
    runtime.block_on(task).unwrap();
    let stalls = || ended(monitor).into_iter().find(|stall| stall.route() == name);
    poll_until(stalls).unwrap()
}

#[inline(never)]
fn sleep() {
    std::thread::sleep(Duration::from_millis(300));
}

#[inline(never)]
fn compute() {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        std::hint::black_box(0);
    }
}

#[track_caller]
fn assert_causes([sleeps, computes]: &[Stall; 2]) {
    assert_eq!(sleeps.cause(), Cause::Blocked, "{sleeps}");
    assert_eq!(sleeps.detail(), None, "a call that is not known is no page fault");
    assert_eq!(computes.cause(), Cause::Cpu, "{computes}");
}

/// Checks that a stall has the line of this file where it is.
#[track_caller]
fn assert_line(stall: &Stall, function: &str) {
    let frames = stall.frames();
    let is_known = |frame: &tower_stall::Frame| frame.function().ends_with(function);
    assert!(frames.iter().any(is_known), "{stall}: {frames:?}");
    assert!(stall.location().unwrap().file().ends_with("sandbox.rs"), "{stall}");
}

#[test]
fn nothing_denied_is_the_measure() {
    in_own_process(|| {
        let stalls = stalls(true, When::BeforeSpawn, || ());
        assert_causes(&stalls);
        assert_line(&stalls[0], "sleep");
        assert_line(&stalls[1], "compute");
        assert_eq!(stalls[0].syscall(), Some("clock_nanosleep"));
    });
}

#[track_caller]
fn assert_causes_and_lines(stalls: &[Stall; 2]) {
    assert_causes(stalls);
    assert_line(&stalls[0], "sleep");
    assert_line(&stalls[1], "compute");
}

// `/proc/self/mem` takes the place of the system call, in the handler of the signal, too.

#[test]
fn without_process_vm_readv_there_are_lines() {
    let denied = || deny(libc::SYS_process_vm_readv, libc::EPERM);
    in_own_process(|| assert_causes_and_lines(&stalls(true, When::BeforeSpawn, denied)));
}

#[test]
fn without_process_vm_readv_from_then_on_there_are_lines() {
    let denied = || deny(libc::SYS_process_vm_readv, libc::ENOSYS);
    in_own_process(|| assert_causes_and_lines(&stalls(true, When::AfterSpawn, denied)));
}

// A signal without a payload takes the place of one with the number of its request.

#[test]
fn without_rt_tgsigqueueinfo_there_are_lines() {
    let denied = || deny(libc::SYS_rt_tgsigqueueinfo, libc::ENOSYS);
    in_own_process(|| assert_causes_and_lines(&stalls(true, When::BeforeSpawn, denied)));
}

#[test]
fn without_rt_tgsigqueueinfo_from_then_on_there_are_lines() {
    let denied = || deny(libc::SYS_rt_tgsigqueueinfo, libc::EPERM);
    in_own_process(|| assert_causes_and_lines(&stalls(true, When::AfterSpawn, denied)));
}

// The signal also tells where a thread is blocked.

fn small_proc() {
    HAS_SMALL_PROC.store(true, Ordering::Relaxed);
}

#[test]
fn without_syscall_and_schedstat_there_are_lines_by_signals() {
    in_own_process(|| assert_causes_and_lines(&stalls(true, When::BeforeSpawn, small_proc)));
}

#[test]
fn without_syscall_and_schedstat_from_then_on_there_are_lines_by_signals() {
    in_own_process(|| assert_causes_and_lines(&stalls(true, When::AfterSpawn, small_proc)));
}

#[test]
fn without_syscall_schedstat_and_signals_there_is_the_cause_and_what_lacks() {
    in_own_process(|| {
        let stalls = stalls(false, When::BeforeSpawn, small_proc);
        assert_causes(&stalls);
        for stall in &stalls {
            let missing = stall.missing().unwrap();
            assert!(missing.contains("/syscall is not readable"), "{missing}");
            assert!(missing.contains("stack_signals(true)"), "{missing}");
        }
    });
}

#[test]
fn without_syscall_schedstat_and_signals_from_then_on_there_is_the_cause_and_what_lacks() {
    in_own_process(|| {
        let stalls = stalls(false, When::AfterSpawn, small_proc);
        assert_causes(&stalls);
        let missing = stalls[0].missing().unwrap();
        assert!(missing.contains("denies access to /proc/self"), "{missing}");
    });
}

// No file can be opened at all, so only the CPU clocks are left.

#[test]
fn without_files_there_is_the_cause() {
    in_own_process(|| {
        let stalls = stalls(false, When::BeforeSpawn, || deny(libc::SYS_openat, libc::EPERM));
        assert_causes(&stalls);
        assert!(stalls.iter().all(|stall| stall.missing().is_some()), "{stalls:?}");
    });
}

#[test]
fn without_files_from_then_on_there_is_the_cause() {
    in_own_process(|| {
        let stalls = stalls(false, When::AfterSpawn, || deny(libc::SYS_openat, libc::EACCES));
        assert_causes(&stalls);
        assert!(stalls.iter().all(|stall| stall.missing().is_some()), "{stalls:?}");
    });
}

#[test]
fn without_anything_there_is_the_cause() {
    in_own_process(|| {
        let stalls = stalls(true, When::BeforeSpawn, || {
            for syscall in [
                libc::SYS_openat,
                libc::SYS_process_vm_readv,
                libc::SYS_rt_tgsigqueueinfo,
                libc::SYS_tgkill,
            ] {
                deny(syscall, libc::EPERM);
            }
        });
        assert_causes(&stalls);
        let missing = stalls[0].missing().unwrap();
        assert!(missing.contains("neither process_vm_readv nor /proc/self/mem"), "{missing}");
    });
}

/// The profile that the guide shows is enough for a service with everything switched on: any other
/// system call ends the process.
#[cfg(all(feature = "axum", feature = "prometheus"))]
#[test]
fn the_seccomp_profile_is_enough() {
    let guide = include_str!("../src/docs/in_production.md");
    let (_, profile) = guide.split_once("```json").unwrap();
    let (profile, _) = profile.split_once("```").unwrap();
    let profile: serde_json::Value = serde_json::from_str(profile).unwrap();
    let groups = profile["syscalls"].as_array().unwrap();
    let names = groups.iter().flat_map(|group| group["names"].as_array().unwrap());
    let number = |name: &serde_json::Value| {
        let name: syscalls::Sysno = name.as_str().unwrap().parse().unwrap();
        u32::try_from(name.id()).unwrap()
    };
    let numbers: Vec<_> = names.map(number).collect();
    in_own_process(|| {
        let permitted =
            || filter(&numbers, libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_KILL_PROCESS);
        assert_causes_and_lines(&stalls(true, When::BeforeSpawn, permitted));
        let runtime = runtime(2);
        let monitor = support::builder_for(&runtime).spawn().unwrap();
        let get = axum::routing::get(|| async { sleep() });
        let app = axum::Router::new().route("/sleep", get).layer(monitor.layer());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        support::install_recorder();
        support::http_get(addr, "/sleep");
        support::eventually("the stall is counted", || {
            let stalls = [("route", "/sleep"), ("cause", "blocked")];
            support::scrape().sum("tower_stall_duration_seconds_count", &stalls) == 1.0
        });
    });
}
