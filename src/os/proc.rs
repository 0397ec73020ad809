//! The state of a thread, from `/proc`.
//!
//! Hand-written, because the `procfs` crate allocates strings and the watchdog must not allocate.
//! The paths are short enough that std's file functions do not allocate for them.

use std::fs::File;
use std::io::{Read, Write as _};
use std::time::Duration;

use super::{BlockedIn, SchedStat, Syscall, ThreadState, Tid, cpu_time};

/// Returns what a thread of this process is doing, as far as the kernel tells. `None` if it has
/// ended.
pub(crate) fn thread_state(thread: Tid) -> Option<ThreadState> {
    with_file(thread, "syscall", parse_syscall)
        .or_else(|| with_file(thread, "stat", parse_stat))
        .or_else(|| cpu_time(thread).map(|_| ThreadState::Unknown))
}

/// Returns whether the kernel tells where a thread of this process is blocked.
#[cfg(stacks_supported)]
pub(crate) fn tells_where_blocked(thread: Tid) -> bool {
    with_file(thread, "syscall", parse_syscall).is_some()
}

/// Returns the scheduler's statistics of a thread of this process; where the kernel has none, what
/// its CPU time tells. `None` if it has ended.
pub(crate) fn sched_stat(thread: Tid) -> Option<SchedStat> {
    with_file(thread, "schedstat", parse_sched_stat)
        .or_else(|| cpu_time(thread).map(SchedStat::from_cpu_time))
}

/// Returns the time that a thread of this process has waited in the run queue. `None` if the kernel
/// does not tell.
pub(crate) fn run_delay(thread: Tid) -> Option<Duration> {
    with_file(thread, "schedstat", parse_sched_stat)?.run_delay
}

/// Returns the threads of this process, with their names, of which the kernel keeps 15 bytes. Some
/// may be missing if others end meanwhile. Allocates.
pub(crate) fn threads() -> Vec<(Tid, String)> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let named = tasks.filter_map(|task| {
        let tid = task.file_name().to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        Some((Tid(tid), name.trim_end().to_owned()))
    });
    named.collect()
}

fn with_file<T>(thread: Tid, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let mut path = [0; 64];
    let mut rest = &mut path[..];
    write!(rest, "/proc/self/task/{}/{name}", thread.0).ok()?;
    let unused = rest.len();
    let path = std::str::from_utf8(&path[..path.len() - unused]).ok()?;
    let mut text = [0; 256];
    let length = File::open(path).ok()?.read(&mut text).ok()?;
    parse(std::str::from_utf8(&text[..length]).ok()?)
}

/// Parses `running`, `number arguments… sp pc`, or `-1 sp pc`.
fn parse_syscall(text: &str) -> Option<ThreadState> {
    if text.starts_with("running") {
        return Some(ThreadState::Running);
    }
    let mut words = text.split_ascii_whitespace();
    let syscall = Syscall(words.next()?.parse().ok()?);
    let hex = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let arg0 = hex(words.clone().next()?)?;
    let mut last = words.rev();
    let (pc, sp) = (hex(last.next()?)?, hex(last.next()?)?);
    Some(ThreadState::Blocked(BlockedIn { syscall, arg0, sp, pc }))
}

/// Parses `tid (name) state …`. The name may contain anything.
fn parse_stat(text: &str) -> Option<ThreadState> {
    let (_, rest) = text.rsplit_once(") ")?;
    match rest.chars().next()? {
        'R' => Some(ThreadState::Running),
        'Z' | 'X' | 'x' => None,
        _ => Some(ThreadState::Asleep),
    }
}

/// Parses `nanoseconds on-CPU, nanoseconds in the run queue, timeslices`.
fn parse_sched_stat(text: &str) -> Option<SchedStat> {
    let mut words = text.split_ascii_whitespace().skip(1).map(str::parse);
    let (run_delay, timeslices) = (words.next()?.ok()?, words.next()?.ok()?);
    Some(SchedStat { run_delay: Some(Duration::from_nanos(run_delay)), timeslices })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::os::thread_cpu_time;

    #[test]
    fn the_three_forms_of_a_thread_state_are_parsed() {
        assert_eq!(parse_syscall("running\n"), Some(ThreadState::Running));
        let blocked = "230 0x1 0x0 0x7ffd 0x0 0x0 0x0 0x7ffa59d6fb60 0x7ffa59e582ad\n";
        let expected = BlockedIn {
            syscall: Syscall(230),
            arg0: 1,
            sp: 0x7ffa_59d6_fb60,
            pc: 0x7ffa_59e5_82ad,
        };
        assert_eq!(parse_syscall(blocked), Some(ThreadState::Blocked(expected)));
        let fault = BlockedIn { syscall: Syscall(-1), arg0: 0x10, sp: 0x10, pc: 0x20 };
        assert_eq!(parse_syscall("-1 0x10 0x20\n"), Some(ThreadState::Blocked(fault)));
        assert_eq!(parse_syscall(""), None);
        assert_eq!(parse_syscall("12"), None);
    }

    #[test]
    fn the_state_of_a_thread_is_parsed_without_its_name() {
        assert_eq!(parse_stat("7 (a) R b) S 1 7"), Some(ThreadState::Asleep));
        assert_eq!(parse_stat("7 (name) R 1 7"), Some(ThreadState::Running));
        assert_eq!(parse_stat("7 (name) Z 1 7"), None);
        assert_eq!(parse_stat("7 (name"), None);
    }

    #[test]
    fn scheduler_statistics_are_parsed() {
        let expected = SchedStat { run_delay: Some(Duration::from_nanos(65_257)), timeslices: 7 };
        assert_eq!(parse_sched_stat("291344 65257 7\n"), Some(expected));
        assert_eq!(parse_sched_stat("291344"), None);
    }

    #[test]
    fn the_current_thread_is_listed_with_its_name() {
        let find = || threads().into_iter().find(|(tid, _)| *tid == Tid::current());
        // The kernel may skip some threads while others end.
        let listed = move || (0..100).find_map(|_| find());
        let thread = std::thread::Builder::new().name("listed".into()).spawn(listed).unwrap();
        assert_eq!(thread.join().unwrap().unwrap().1, "listed");
    }

    #[test]
    fn a_blocked_thread_is_observed_in_its_system_call() {
        let (send_tid, tid) = std::sync::mpsc::channel();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            send_tid.send(Tid::current()).unwrap();
            held.recv().unwrap_err();
        });
        let tid = tid.recv().unwrap();
        let blocked = loop {
            // It may be blocked by a page fault first.
            match thread_state(tid) {
                Some(ThreadState::Blocked(blocked)) if blocked.syscall.name() == Some("futex") => {
                    break blocked;
                }
                _ => {}
            }
        };
        assert!(!blocked.syscall.takes_fd());
        assert!(sched_stat(tid).unwrap().timeslices >= 1);
        drop(hold);
        thread.join().unwrap();
        assert_eq!(thread_state(tid), None, "the thread has ended");
    }

    #[test]
    fn a_thread_that_observes_itself_is_in_the_read() {
        let own = thread_state(Tid::current());
        let is_reading = |blocked: BlockedIn| blocked.syscall.name() == Some("read");
        assert!(
            matches!(own, Some(ThreadState::Blocked(blocked)) if is_reading(blocked)),
            "{own:?}"
        );
        let before = thread_cpu_time().unwrap();
        assert!(cpu_time(Tid::current()).unwrap() >= before);
    }

    proptest! {
        #[test]
        fn property_any_text_is_parsed_or_refused(text in ".*") {
            let _ = (parse_syscall(&text), parse_stat(&text), parse_sched_stat(&text));
        }

        #[test]
        fn property_a_blocked_thread_is_parsed(number in -1_i32..500, words in [any::<u64>(); 3]) {
            let [arg0, sp, pc] = words;
            let expected = BlockedIn { syscall: Syscall(number), arg0, sp, pc };
            let text = format!("{number} {arg0:#x} 0x0 0x0 0x0 0x0 0x0 {sp:#x} {pc:#x}\n");
            prop_assert_eq!(parse_syscall(&text), Some(ThreadState::Blocked(expected)));
        }

        #[test]
        fn property_a_name_does_not_change_the_state(name in "[^\0]{0,15}") {
            let text = format!("7 ({name}) R 1 7 7 0 -1 4194304");
            prop_assert_eq!(parse_stat(&text), Some(ThreadState::Running));
        }
    }
}
