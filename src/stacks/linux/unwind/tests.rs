use std::hint::black_box;
use std::io::{Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::os::{self, Tid};
use crate::stacks::snapshot::{self, DEEP_CAPACITY};

const READ: i64 = libc::SYS_read;
const FUTEX: i64 = libc::SYS_futex;
const SLEEP: i64 = libc::SYS_clock_nanosleep;

/// How long a thread is blocked: longer than it takes to copy its stack.
const LONG: Duration = Duration::from_millis(1500);

/// A consistent copy of a stack whose bytes a test may change.
struct StackCopy {
    registers: Registers,
    mark: u64,
    base: u64,
    bytes: Vec<u8>,
}

impl StackCopy {
    /// Returns `None` if the thread is not blocked in the system call, or has continued meanwhile.
    fn take(tid: Tid, syscall: Option<i64>, mark: u64) -> Option<Self> {
        let file = |name| std::fs::read_to_string(format!("/proc/self/task/{}/{name}", tid.0)).ok();
        let state = || file("syscall").zip(file("schedstat"));
        let before = state()?;
        let fields: Vec<_> = before.0.split_whitespace().collect();
        let [number, .., sp, pc] = fields[..] else { return None };
        if syscall.is_some_and(|syscall| number.parse() != Ok(syscall)) {
            return None;
        }
        let hex = |digits: &str| u64::from_str_radix(digits.trim_start_matches("0x"), 16).ok();
        let (sp, pc) = (hex(sp)?, hex(pc)?);
        let (base, len) = StackSnapshot::range(sp, mark);
        let mut bytes = vec![0; len];
        let copied = os::read_process_memory(base, &mut bytes);
        bytes.truncate(copied);
        (state()? == before).then_some(Self {
            registers: arch::of_blocked(pc, sp),
            mark,
            base,
            bytes,
        })
    }

    fn snapshot(&self) -> StackSnapshot {
        let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
        stack.registers = self.registers;
        stack.mark = self.mark;
        stack.fill(self.base, |to| {
            to[..self.bytes.len()].copy_from_slice(&self.bytes);
            self.bytes.len()
        });
        stack
    }

    fn of_whole_stack(tid: Tid) -> Self {
        Self::take(tid, None, u64::MAX).unwrap()
    }
}

/// Runs `block` on a thread of its own, and copies the stack while that is blocked in `syscall`.
fn blocked(syscall: i64, block: impl FnOnce() + Send + 'static) -> (Tid, StackCopy) {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || poll_frame(&sender, block));
    let (tid, mark) = receiver.recv().unwrap();
    let started = Instant::now();
    loop {
        if let Some(copy) = StackCopy::take(tid, Some(syscall), mark) {
            return (tid, copy);
        }
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "the thread was never blocked in {syscall}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[inline(never)]
fn poll_frame(sender: &mpsc::Sender<(Tid, u64)>, block: impl FnOnce()) {
    let local = 0_u8;
    let mark = std::ptr::from_ref(black_box(&local)).addr() as u64;
    sender.send((Tid::current(), mark)).unwrap();
    block();
    black_box(&local);
}

#[inline(never)]
fn outer_level(block: impl FnOnce()) {
    let mut room = [0_u8; 6_000];
    black_box(&mut room);
    inner_level(block);
    black_box(&mut room);
}

#[inline(never)]
fn inner_level(block: impl FnOnce()) {
    let words = black_box(vec![1_u64; 10]);
    block();
    black_box(words);
}

#[inline(never)]
fn recursion(depth: u64, block: &dyn Fn()) {
    let mut room = [depth; 8];
    black_box(&mut room);
    match depth {
        0 => block(),
        _ => recursion(depth - 1, block),
    }
    black_box(&mut room);
}

/// Starts a process that writes its input to its output.
fn cat() -> (Child, ChildStdout) {
    let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let output = cat.stdout.take().unwrap();
    (cat, output)
}

fn names(trace: &CallStack) -> Vec<String> {
    let mut names = Vec::new();
    for call in &trace.call_sites {
        backtrace::resolve(call.address as *mut _, |symbol| {
            names.extend(symbol.name().map(|name| name.to_string()));
        });
    }
    names
}

fn count(names: &[String], name: &str) -> usize {
    names.iter().filter(|found| found.contains(name)).count()
}

#[track_caller]
fn assert_unwinds(syscall: i64, levels: &[&str], block: impl FnOnce() + Send + 'static) {
    let (tid, copy) = blocked(syscall, block);
    let whole = StackCopy::of_whole_stack(tid);
    let mut unwinder = Unwinder::new();

    let trace = unwinder.unwind(&copy.snapshot());
    let found = names(&trace);
    assert_eq!(trace.end, StopReason::Mark, "{found:#?}");
    for level in levels {
        assert_eq!(count(&found, level), 1, "{level} in {found:#?}");
    }
    let last = CallStack {
        call_sites: trace.call_sites[trace.call_sites.len() - 1..].to_vec(),
        alternatives: Vec::new(),
        end: StopReason::Mark,
        is_whole: false,
    };
    assert_eq!(count(&names(&last), "poll_frame"), 1, "{found:#?}");

    let more = unwinder.unwind(&whole.snapshot());
    assert_eq!(more.end, StopReason::OutermostFrame, "{:#?}", names(&more));
    assert!(
        more.call_sites.len() > trace.call_sites.len()
            && more.call_sites.starts_with(&trace.call_sites)
    );
}

#[test]
fn a_sleep_is_unwound() {
    assert_unwinds(SLEEP, &["outer_level", "inner_level"], || {
        outer_level(|| std::thread::sleep(LONG));
    });
}

#[test]
fn a_contended_lock_is_unwound() {
    let lock = Arc::new(Mutex::new(0));
    let held = Arc::clone(&lock);
    let guard = held.lock().unwrap();
    assert_unwinds(FUTEX, &["outer_level", "inner_level"], move || {
        outer_level(move || drop(black_box(lock.lock().unwrap())));
    });
    drop(guard);
}

#[test]
fn a_wait_for_a_condition_is_unwound() {
    let never = Arc::new((Mutex::new(()), Condvar::new()));
    assert_unwinds(FUTEX, &["outer_level", "inner_level"], move || {
        outer_level(move || {
            let guard = never.0.lock().unwrap();
            drop(never.1.wait_timeout(guard, LONG).unwrap());
        });
    });
}

#[test]
fn a_blocking_read_is_unwound() {
    let (mut cat, mut reader) = cat();
    assert_unwinds(READ, &["outer_level", "inner_level"], move || {
        outer_level(move || assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0));
    });
    drop(cat.stdin.take());
    cat.wait().unwrap();
}

#[test]
fn a_recursion_is_unwound() {
    let (_, copy) = blocked(SLEEP, || recursion(20, &|| std::thread::sleep(LONG)));
    let trace = Unwinder::new().unwind(&copy.snapshot());
    let found = names(&trace);
    assert_eq!(trace.end, StopReason::Mark, "{found:#?}");
    assert!(count(&found, "recursion") >= 21, "{found:#?}");
}

#[test]
fn a_deep_recursion_is_unwound_to_its_outermost_call() {
    let (tid, copy) = blocked(SLEEP, || recursion(5000, &|| std::thread::sleep(LONG)));
    let whole = StackCopy::of_whole_stack(tid);
    assert!(copy.bytes.len() > snapshot::CAPACITY);
    let trace = Unwinder::new().unwind(&copy.snapshot());
    assert_eq!(trace.end, StopReason::Mark);
    assert!(trace.call_sites.len() > 5000, "{}", trace.call_sites.len());
    let trace = Unwinder::new().unwind(&whole.snapshot());
    assert_eq!((trace.end, trace.is_whole), (StopReason::OutermostFrame, true));
}

#[test]
fn a_copy_that_is_too_short_is_truncated() {
    let (_, mut copy) = blocked(SLEEP, || recursion(5000, &|| std::thread::sleep(LONG)));
    copy.bytes.truncate(snapshot::CAPACITY);
    let trace = Unwinder::new().unwind(&copy.snapshot());
    let found = names(&trace);
    assert_eq!(trace.end, StopReason::Truncated, "{found:#?}");
    assert!(count(&found, "recursion") > 50, "{found:#?}");
}

#[test]
fn another_stack_is_unwound_to_the_switch() {
    let on_another_stack = || stacker::grow(1 << 20, || inner_level(|| std::thread::sleep(LONG)));
    let (tid, copy) = blocked(SLEEP, move || outer_level(on_another_stack));
    let whole = StackCopy::of_whole_stack(tid);
    for copy in [copy, whole] {
        let trace = Unwinder::new().unwind(&copy.snapshot());
        let found = names(&trace);
        // The switch is not seen if no function has saved rbp, as in a standard library without frame
        // pointers.
        let is_unseen = cfg!(target_env = "musl") && trace.end == StopReason::Truncated;
        assert!(trace.end == StopReason::OtherStack || is_unseen, "{:?} {found:#?}", trace.end);
        assert!(!trace.is_whole, "{found:#?}");
        assert_eq!(count(&found, "inner_level"), 1, "{found:#?}");
        assert_eq!(count(&found, "outer_level"), 0, "{found:#?}");
    }
}

#[test]
fn a_call_belongs_to_a_module() {
    let (_, copy) = blocked(SLEEP, || std::thread::sleep(LONG));
    let mut unwinder = Unwinder::new();
    assert_eq!(
        unwinder.module_of(copy.registers.get(arch::PC).unwrap()),
        None,
        "modules are read when first needed"
    );
    let trace = unwinder.unwind(&copy.snapshot());
    let module = |call: &CallSite| unwinder.module_of(call.address).unwrap();
    let (leaf, outermost) =
        (module(trace.call_sites.first().unwrap()), module(trace.call_sites.last().unwrap()));
    let program = std::env::current_exe().unwrap();
    if cfg!(target_feature = "crt-static") {
        assert_eq!((leaf.path, leaf.is_own), (program.as_path(), true));
    } else {
        assert!(leaf.path.to_str().unwrap().contains("libc") && !leaf.is_own, "{leaf:?}");
    }
    assert_eq!((outermost.path, outermost.is_own), (program.as_path(), true));
}

/// A word that is overwritten during the copy is either detected or not used, unless another call of
/// the same function returns there.
#[test]
fn a_torn_copy_never_yields_another_stack() {
    let (_, copy) = blocked(SLEEP, || outer_level(|| std::thread::sleep(LONG)));
    assert_no_other_stack(copy);
}

/// On aarch64, the leaf keeps its return address in a register that is not known.
#[test]
fn a_torn_copy_of_a_leaf_never_yields_another_stack() {
    let lock = Arc::new(Mutex::new(0));
    let held = Arc::clone(&lock);
    let guard = held.lock().unwrap();
    let wait = move || outer_level(move || drop(black_box(lock.lock().unwrap())));
    let (_, copy) = blocked(FUTEX, wait);
    drop(guard);
    assert_no_other_stack(copy);
}

fn assert_no_other_stack(mut copy: StackCopy) {
    let mut unwinder = Unwinder::new();
    let whole = unwinder.unwind(&copy.snapshot());
    assert_eq!(whole.end, StopReason::Mark);
    let (sp, code) =
        (copy.registers.get(arch::SP).unwrap(), names as fn(&_) -> _ as usize as u64 + 1);
    let mut detected = 0;
    for at in (0..copy.bytes.len() / 8).map(|word| word * 8) {
        let old: [u8; 8] = copy.bytes[at..at + 8].try_into().unwrap();
        let near = u64::from_ne_bytes(old);
        let own = copy.base + at as u64;
        let values = [
            0,
            u64::MAX,
            own,
            sp,
            sp + 4096,
            near.wrapping_add(16),
            near.wrapping_sub(8),
            near ^ 1,
            code,
            code + 3,
        ];
        for new in values.into_iter().filter(|new| !arch::is_return_address(*new)) {
            copy.bytes[at..at + 8].copy_from_slice(&new.to_ne_bytes());
            let trace = unwinder.unwind(&copy.snapshot());
            match trace.end {
                StopReason::Mark => {
                    assert_eq!(trace.call_sites, whole.call_sites, "{at} {new:x}");
                }
                _ => detected += 1,
            }
        }
        copy.bytes[at..at + 8].copy_from_slice(&old);
    }
    assert!(detected > 20, "{detected}");
}

/// A wrong stack pointer is detected, or meets another frame of the same stack by chance.
#[test]
fn a_wrong_stack_pointer_never_yields_another_stack() {
    let (_, mut copy) = blocked(SLEEP, || outer_level(|| std::thread::sleep(LONG)));
    let sp = copy.registers.get(arch::SP).unwrap();
    let mut unwinder = Unwinder::new();
    let whole = unwinder.unwind(&copy.snapshot());
    let outer = &whole.call_sites[whole.call_sites.len() - 3..];
    for off in (-120..=120_i64).filter(|off| *off != 0) {
        copy.registers.set(arch::SP, sp.checked_add_signed(off));
        let trace = unwinder.unwind(&copy.snapshot());
        assert!(
            trace.end != StopReason::Mark || off % 8 == 0 && trace.call_sites.ends_with(outer),
            "{off} {:#?}",
            names(&trace)
        );
    }
}

/// The stack of a thread that a signal has interrupted in a sleep, and whose handler has just
/// returned. The code that it returns to has no tables in musl.
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
#[test]
fn a_signal_frame_is_unwound() {
    /// `mov rax, SYS_rt_sigreturn; syscall`
    const TRAMPOLINE: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
    /// The size of what the kernel stores above the trampoline's stack pointer, and the offsets of
    /// three registers in it.
    const CONTEXT: u64 = 1024;
    const SAVED: [usize; 3] = [120, 160, 168];

    let (_, copy) = blocked(SLEEP, || outer_level(|| std::thread::sleep(LONG)));
    let mut unwinder = Unwinder::new();
    let whole = unwinder.unwind(&copy.snapshot());
    let (pc, sp) = (copy.registers.get(arch::PC).unwrap(), copy.registers.get(arch::SP).unwrap());
    let libc = (0..).map(|page| (pc & !0xfff) - page * 4096);
    let in_page = |page| {
        let code = crate::stacks::linux::memory::copy(page..page + 4096)?;
        code.windows(TRAMPOLINE.len())
            .position(|code| code == TRAMPOLINE)
            .map(|at| page + at as u64)
    };
    let trampoline = libc.take(4096).find_map(in_page).unwrap();
    // The rbp of the blocked thread is not known. It is one of these.
    let is_unwound = (sp..copy.mark).step_by(8).any(|rbp| {
        let mut bytes = vec![0; CONTEXT as usize];
        for (at, value) in SAVED.into_iter().zip([rbp, sp, pc]) {
            bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        }
        bytes.extend_from_slice(&copy.bytes);
        let base = copy.base - CONTEXT;
        let registers = arch::of_blocked(trampoline, base);
        let trace =
            unwinder.unwind(&StackCopy { registers, mark: copy.mark, base, bytes }.snapshot());
        trace.end == StopReason::Mark && trace.call_sites[1..] == whole.call_sites
    });
    assert!(is_unwound);
}

/// However little was copied, it is the same stack.
#[test]
fn a_short_copy_is_unwound_to_its_end() {
    let (_, mut copy) = blocked(SLEEP, || outer_level(|| std::thread::sleep(LONG)));
    let mut unwinder = Unwinder::new();
    let whole = unwinder.unwind(&copy.snapshot());
    let least = usize::try_from(snapshot::RED_ZONE + snapshot::MARGIN).unwrap();
    for len in (least..copy.bytes.len()).step_by(8).rev() {
        copy.bytes.truncate(len);
        for mark in [copy.mark, copy.base + len as u64 - snapshot::MARGIN] {
            let trace =
                unwinder.unwind(&StackCopy { mark, bytes: copy.bytes.clone(), ..copy }.snapshot());
            assert!(
                matches!(trace.end, StopReason::Mark | StopReason::Truncated),
                "{len} {:?}",
                trace.end
            );
            assert!(whole.call_sites.starts_with(&trace.call_sites), "{len} {:#?}", names(&trace));
        }
    }
}

#[test]
fn a_leaf_on_another_stack_never_reaches_the_mark() {
    let (_, mut copy) = blocked(SLEEP, || std::thread::sleep(LONG));
    copy.mark = copy.registers.get(arch::SP).unwrap() - 8;
    assert_ne!(Unwinder::new().unwind(&copy.snapshot()).end, StopReason::Mark);
}

/// A leaf whose CFA is relative to rbp, and an rbp that points beyond the copy. No function of musl
/// has tables.
#[cfg(target_env = "gnu")]
#[test]
fn a_wrong_frame_pointer_never_reaches_the_mark() {
    let (_, mut copy) = blocked(SLEEP, || std::thread::sleep(LONG));
    let (mut unwinder, mut context) = (Unwinder::new(), UnwindContext::new());
    unwinder.modules.refresh();
    let libc = (libc::getpid as *const ()).addr() as u64;
    let has_frame_pointer = |address: &u64| {
        let module = unwinder.modules.find(*address);
        let row = module.and_then(|module| module.cfi()?.row(*address, &mut context));
        row.is_some_and(|row| matches!(row.cfa(), CfaRule::RegisterAndOffset { register: FP, .. }))
    };
    let leaves: Vec<_> =
        (libc..libc + (1 << 20)).step_by(16).filter(has_frame_pointer).take(50).collect();
    assert!(!leaves.is_empty());
    let beyond = copy.snapshot().end() + 4096;
    for pc in leaves {
        copy.registers.set(arch::PC, Some(pc));
        copy.registers.set(arch::FP, Some(beyond & !7));
        assert_eq!(unwinder.unwind(&copy.snapshot()).end, StopReason::Inconsistent, "{pc:x}");
    }
}

#[test]
#[ignore = "a measurement"]
fn measure_unwinding() {
    let (_, copy) = blocked(SLEEP, || outer_level(|| std::thread::sleep(LONG)));
    let (mut unwinder, stack) = (Unwinder::new(), copy.snapshot());
    let mut times = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        let trace = unwinder.unwind(&stack);
        times.push((started.elapsed(), trace.call_sites.len()));
    }
    let first = times.remove(0);
    times.sort_unstable();
    println!(
        "first {first:?}, then median {:?}, p90 {:?}",
        times[times.len() / 2],
        times[times.len() * 9 / 10]
    );
}

/// Alternates between calls that block and calls that do not.
fn hop(round: &mut u64, reader: &mut impl Read) {
    *round = round.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    match (*round >> 40) % 5 {
        0 => std::thread::sleep(Duration::from_micros(20)),
        1 => drop(reader.read(&mut [0; 8])),
        2 => std::thread::yield_now(),
        3 => recursion((*round >> 50) % 12, &|| std::thread::sleep(Duration::from_micros(10))),
        _ => outer_level(|| std::thread::sleep(Duration::from_micros(10))),
    }
}

#[test]
#[ignore = "takes 5 s, and measures"]
fn stacks_of_a_busy_thread_are_unwound() {
    let stop = Arc::new(AtomicBool::new(false));
    let (mut cat, mut reader) = cat();
    let mut writer = cat.stdin.take().unwrap();
    let (hopper, feeder) = (Arc::clone(&stop), Arc::clone(&stop));
    let (sender, receiver) = mpsc::channel();
    let rounds = Arc::new(AtomicU64::new(0));
    let done = Arc::clone(&rounds);
    let hopping = std::thread::spawn(move || {
        poll_frame(&sender, || {
            let mut round = 1;
            while !hopper.load(Ordering::Relaxed) {
                hop(&mut round, &mut reader);
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    });
    let feeding = std::thread::spawn(move || {
        while !feeder.load(Ordering::Relaxed) {
            let _ = writer.write_all(&[0; 8]);
            std::thread::sleep(Duration::from_micros(50));
        }
    });

    let (tid, mark) = receiver.recv().unwrap();
    let mut unwinder = Unwinder::new();
    let (mut tries, mut ends) = (0_u64, std::collections::HashMap::<String, u64>::new());
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        tries += 1;
        let Some(copy) = StackCopy::take(tid, None, mark) else { continue };
        let trace = unwinder.unwind(&copy.snapshot());
        *ends.entry(format!("{:?}", trace.end)).or_default() += 1;
        if trace.end != StopReason::Mark && ends.values().sum::<u64>() < 2000 {
            println!("{:?}: {:#?}", trace.end, names(&trace));
        }
    }
    stop.store(true, Ordering::Relaxed);
    hopping.join().unwrap();
    feeding.join().unwrap();
    cat.wait().unwrap();
    println!("{tries} tries, {} rounds of the thread, {ends:?}", rounds.load(Ordering::Relaxed));
    assert!(ends.get("Mark").is_some_and(|marks| *marks > 100), "{ends:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    /// Return addresses of this program between random words, as on the stack of a thread that runs
    /// while it is copied.
    #[test]
    fn property_any_stack_is_unwound_to_an_end(
        words in proptest::collection::vec(any::<u64>(), 1..512),
        codes in proptest::collection::vec((0_usize..512, -4096_i64..4096), 0..64),
        registers in proptest::collection::vec(any::<Option<u16>>(), arch::REGISTERS),
        mark in any::<Option<u16>>(),
    ) {
        let here = names as fn(&CallStack) -> Vec<String> as usize as u64;
        let (base, len) = (0x7000_0000_0000, words.len());
        let mut words = words;
        for (place, offset) in codes {
            words[place % len] = here.wrapping_add_signed(offset);
            words[(place + 1) % len] = base + (place % len) as u64 * 8 + 16;
        }
        let mut stack = StackSnapshot::with_capacity(len * 8);
        for (number, value) in (0..).zip(&registers) {
            let value = value.map(|value| base + u64::from(value) % (len as u64 * 8));
            stack.registers.set(number, value);
        }
        let offset = registers[0].unwrap_or_default() % 256;
        stack.registers.set(arch::PC, Some(here + u64::from(offset)));
        stack.registers.set(arch::SP, Some(base));
        stack.mark = mark.map_or(u64::MAX, |mark| base + u64::from(mark));
        stack.fill(base, |bytes| {
            for (bytes, word) in bytes.chunks_mut(8).zip(&words) {
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
            len * 8
        });
        let trace = Unwinder::new().unwind(&stack);
        prop_assert!(trace.call_sites.len() <= MAX_FRAMES);
    }
}
