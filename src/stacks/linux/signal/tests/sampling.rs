use std::arch::asm;
use std::ffi::c_void;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::stacks::linux::arch::{SAVED_ORDER, SavedRegisters};
use crate::stacks::snapshot::{DEEP_CAPACITY, MARGIN, RED_ZONE};

fn is_code_of_this_executable(address: u64) -> bool {
    let executable = std::env::current_exe().unwrap();
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().any(|line| {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|number| u64::from_str_radix(number, 16).unwrap());
        rest.starts_with("r-x")
            && rest.ends_with(executable.to_str().unwrap())
            && start <= address
            && address < end
    })
}

/// Fulfills a request to the current thread as the handler would, interrupted at a stack pointer.
fn fulfill_at(sp: u64, request: &SampleRequest) {
    let mut registers: SavedRegisters = std::array::from_fn(|_| 0);
    registers[SAVED_ORDER[usize::from(arch::SP)]] = sp;
    SHARED.fulfill(request.0.number(), Tid::current(), |sample, mark| {
        sample.capture(&registers, mark);
    });
}

/// Returns the end of the current thread's stack.
fn stack_end() -> u64 {
    let mut attributes = MaybeUninit::uninit();
    let (mut low, mut size) = (ptr::null_mut::<c_void>(), 0);
    // SAFETY: the attributes are initialized by the first call, if it succeeds, and destroyed by
    // the last; the other pointers are to variables of the right types.
    unsafe {
        assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()), 0);
        libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut low, &raw mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
    (low.addr() + size) as u64
}

#[test]
fn a_busy_thread_is_sampled() {
    let _alone = alone();
    let (sampler, target) = (SignalSampler::install().unwrap(), TestThread::busy());
    let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
    for _ in 0..100 {
        assert_eq!(target.sample(&sampler, &mut stack), SampleStatus::Copied);
        target.check(&stack);
        assert!(is_code_of_this_executable(stack.registers.get(arch::PC).unwrap()));
        assert!(!was_interrupted(&stack.registers));
    }
}

/// The thread does nothing but hold a different value in each register.
#[test]
fn registers_have_their_dwarf_numbers() {
    let _alone = alone();
    let sampler = SignalSampler::install().unwrap();
    let target = TestThread::spawn(|| (), hold_registers);
    let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
    assert_eq!(target.sample(&sampler, &mut stack), SampleStatus::Copied);
    target.check(&stack);
    for number in HELD {
        assert_eq!(stack.registers.get(number), Some(100 + u64::from(number)), "register {number}");
    }
    assert!((1..=LOOPS).contains(&stack.registers.get(COUNTER).unwrap()));
}

const LOOPS: u64 = 20_000_000;

/// The registers that have their number and a hundred, and the one that counts down.
#[cfg(target_arch = "x86_64")]
const HELD: [u16; 14] = [0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15];
#[cfg(target_arch = "x86_64")]
const COUNTER: u16 = 2;

#[cfg(target_arch = "x86_64")]
fn hold_registers() {
    // SAFETY: restores the registers that it changes without declaring them, and accesses only the
    // stack.
    unsafe {
        asm!(
            "push rbx", "push rbp",
            "mov rbx, 103", "mov rbp, 106",
            "2:", "dec rcx", "jne 2b",
            "pop rbp", "pop rbx",
            inout("rcx") LOOPS => _,
            in("rax") 100_u64, in("rdx") 101_u64, in("rsi") 104_u64, in("rdi") 105_u64,
            in("r8") 108_u64, in("r9") 109_u64, in("r10") 110_u64, in("r11") 111_u64,
            in("r12") 112_u64, in("r13") 113_u64, in("r14") 114_u64, in("r15") 115_u64,
        );
    }
}

#[cfg(target_arch = "aarch64")]
const HELD: [u16; 15] = [1, 2, 3, 4, 5, 15, 16, 17, 19, 20, 21, 27, 28, 29, 30];
#[cfg(target_arch = "aarch64")]
const COUNTER: u16 = 0;

#[cfg(target_arch = "aarch64")]
fn hold_registers() {
    // SAFETY: restores the registers that it changes without declaring them, and accesses only the
    // stack.
    unsafe {
        asm!(
            "stp x29, x30, [sp, #-32]!", "str x19, [sp, #16]",
            "mov x19, #119", "mov x29, #129", "mov x30, #130",
            "2:", "subs x0, x0, #1", "b.ne 2b",
            "ldr x19, [sp, #16]", "ldp x29, x30, [sp], #32",
            inout("x0") LOOPS => _,
            in("x1") 101_u64, in("x2") 102_u64, in("x3") 103_u64, in("x4") 104_u64,
            in("x5") 105_u64, in("x15") 115_u64, in("x16") 116_u64, in("x17") 117_u64,
            in("x20") 120_u64, in("x21") 121_u64, in("x27") 127_u64, in("x28") 128_u64,
        );
    }
}

#[test]
fn the_whole_stack_is_copied() {
    let _alone = alone();
    let sampler = SignalSampler::install().unwrap();
    let (sender, receiver) = mpsc::channel();
    let target = TestThread::spawn(move || sender.send(stack_end()).unwrap(), || ());
    let end = receiver.recv().unwrap();
    let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
    let mut request = sampler.request(target.tid, u64::MAX).unwrap();
    assert_eq!(wait(&mut request, &mut stack, TIMEOUT), SampleStatus::Copied);
    let sp = stack.registers.get(arch::SP).unwrap();
    assert!(end - sp < DEEP_CAPACITY as u64 - RED_ZONE, "the stack is too deep for this test");
    assert!(stack.end() >= end, "{:x} is below the end {end:x}", stack.end());
}

#[test]
fn a_copy_begins_with_the_red_zone_and_ends_beyond_the_mark() {
    let _alone = alone();
    let (sampler, target) = (SignalSampler::install().unwrap(), TestThread::busy());
    let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
    assert_eq!(target.sample(&sampler, &mut stack), SampleStatus::Copied);
    let base = stack.registers.get(arch::SP).unwrap() - RED_ZONE;
    assert!(stack.word(base).is_some());
    assert_eq!(stack.word(base - 1), None);
    assert_eq!(stack.end(), target.words + MARGIN);
}

#[test]
fn a_stack_pointer_that_is_not_mapped_yields_no_bytes() {
    let _alone = alone();
    let (sampler, target) = (SignalSampler::install().unwrap(), TestThread::busy());
    let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
    assert_eq!(target.sample(&sampler, &mut stack), SampleStatus::Copied);
    for sp in [0, 4096, 1 << 63, u64::MAX] {
        let mut request = SampleRequest(SHARED.request(Tid::current(), u64::MAX).unwrap());
        fulfill_at(sp, &request);
        assert_eq!(request.poll(&mut stack, |_, _| ()), SampleStatus::Unreadable);
        assert_eq!(stack.registers.get(arch::SP), Some(sp));
        assert_eq!(stack.word(target.words), None, "bytes of the sample before");
    }
}

#[test]
fn a_copy_ends_at_the_first_unreadable_page() {
    let _alone = alone();
    // SAFETY: the call accesses no memory.
    let page_size = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
    // SAFETY: a new mapping, of which the second page is made unreadable.
    let page = unsafe {
        let (access, kind) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let page = libc::mmap(ptr::null_mut(), 2 * page_size, access, kind, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        assert_eq!(
            libc::mprotect(page.wrapping_byte_add(page_size), page_size, libc::PROT_NONE),
            0
        );
        page
    };
    let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
    let sp = (page.addr() + page_size - 800) as u64;
    let mut request = SampleRequest(SHARED.request(Tid::current(), u64::MAX).unwrap());
    fulfill_at(sp, &request);
    assert_eq!(request.poll(&mut stack, |_, _| ()), SampleStatus::Copied);
    assert_eq!(stack.end(), (page.addr() + page_size) as u64);
    assert_eq!(stack.word(stack.end() - 8), Some(0));
    // SAFETY: nothing refers to the mapping.
    assert_eq!(unsafe { libc::munmap(page, 2 * page_size) }, 0);
}

#[test]
fn a_thread_that_blocks_the_signal_does_not_respond() {
    let _alone = alone();
    let sampler = SignalSampler::install().unwrap();
    let ((target, unblock), other) = (TestThread::blocking_the_signal(), TestThread::busy());
    let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
    let mut request = target.request(&sampler).unwrap();
    assert_eq!(wait(&mut request, &mut stack, NO_RESPONSE), SampleStatus::Pending);
    assert!(other.request(&sampler).is_none(), "two at a time");
    assert!(request.cancel());
    let mut next = other.request(&sampler).unwrap();
    unblock.store(true, Ordering::SeqCst);
    thread::sleep(NO_RESPONSE);
    assert_eq!(request.poll(&mut stack, |_, _| ()), SampleStatus::Pending);
    assert!(request.cancel());
    drop(request);
    assert_eq!(
        wait(&mut next, &mut stack, TIMEOUT),
        SampleStatus::Copied,
        "a handle to an ended request cancelled the next one"
    );
    other.check(&stack);
    assert_eq!(target.sample(&sampler, &mut stack), SampleStatus::Copied);
    target.check(&stack);
}

/// The kernel keeps one pending signal of a kind, the first: the second request is not fulfilled.
#[test]
fn a_late_signal_does_not_fulfill_a_later_request() {
    let _alone = alone();
    let sampler = SignalSampler::install().unwrap();
    let (target, unblock) = TestThread::blocking_the_signal();
    let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
    assert!(target.request(&sampler).unwrap().cancel());
    let mut request = target.request(&sampler).unwrap();
    unblock.store(true, Ordering::SeqCst);
    assert_eq!(wait(&mut request, &mut stack, NO_RESPONSE), SampleStatus::Pending);
    assert!(request.cancel());
    assert_eq!(target.sample(&sampler, &mut stack), SampleStatus::Copied);
}

#[test]
fn no_thread_responds_for_another() {
    let _alone = alone();
    let sampler = SignalSampler::install().unwrap();
    let (target, unblock) = TestThread::blocking_the_signal();
    let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
    let mut request = target.request(&sampler).unwrap();
    forge(Tid::current(), request.0.number(), |_| ());
    assert_eq!(request.poll(&mut stack, |_, _| ()), SampleStatus::Pending);
    unblock.store(true, Ordering::SeqCst);
    assert_eq!(wait(&mut request, &mut stack, TIMEOUT), SampleStatus::Copied);
    target.check(&stack);
}

#[test]
fn a_thread_that_has_ended_is_not_sampled() {
    let _alone = alone();
    let sampler = SignalSampler::install().unwrap();
    let target = TestThread::busy();
    let tid = target.tid;
    drop(target);
    // `join` returns before the kernel has removed the thread.
    let start = Instant::now();
    while sampler.request(tid, 0).is_some() {
        assert!(start.elapsed() < TIMEOUT);
    }
    assert!(
        TestThread::busy().request(&sampler).is_some(),
        "the request that failed was never freed"
    );
}

#[test]
fn a_dropped_request_is_cancelled() {
    let _alone = alone();
    let sampler = SignalSampler::install().unwrap();
    let (target, _) = TestThread::blocking_the_signal();
    drop(target.request(&sampler).unwrap());
    drop(target.request(&sampler).unwrap());
    assert!(target.request(&sampler).unwrap().cancel());
}

/// The handler and `cancel` race: one of them wins, and the sample is free afterwards.
#[test]
fn a_race_of_cancel_and_fulfill_has_one_winner() {
    let _alone = alone();
    let (sampler, target) = (SignalSampler::install().unwrap(), TestThread::busy());
    let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
    let start = Instant::now();
    for spins in (0..400).cycle().take_while(|_| start.elapsed() < Duration::from_secs(1)) {
        let mut request = target.request_soon(&sampler, target.words);
        (0..spins).for_each(|_| std::hint::spin_loop());
        while !request.cancel() {
            if request.poll(&mut stack, |_, _| ()) == SampleStatus::Copied {
                target.check(&stack);
            }
        }
        let mut request = target.request_soon(&sampler, target.words);
        if wait(&mut request, &mut stack, Duration::from_micros(300)) == SampleStatus::Copied {
            target.check(&stack);
        }
    }
    assert_eq!(target.sample(&sampler, &mut stack), SampleStatus::Copied);
    target.check(&stack);
}

#[test]
fn two_samplers_never_have_a_request_at_the_same_time() {
    let _alone = alone();
    let sample = || {
        let (sampler, target) = (SignalSampler::install().unwrap(), TestThread::busy());
        let (mut stack, mut numbers, start) =
            (StackSnapshot::with_capacity(DEEP_CAPACITY), Vec::new(), Instant::now());
        let mut copied = 0;
        while copied < 100 && start.elapsed() < TIMEOUT {
            let Some(mut request) = target.request(&sampler) else { continue };
            numbers.push(request.0.number());
            assert!(target.request(&sampler).is_none());
            if wait(&mut request, &mut stack, Duration::from_millis(100)) == SampleStatus::Copied {
                target.check(&stack);
                copied += 1;
            }
        }
        assert!(copied > 0);
        numbers
    };
    let mut numbers = thread::scope(|scope| {
        let threads = [scope.spawn(sample), scope.spawn(sample)];
        threads.map(|thread| thread.join().unwrap()).concat()
    });
    let requests = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), requests, "two requests had the same number");
}

#[test]
fn a_read_is_restarted_after_the_signal() {
    let _alone = alone();
    let sampler = SignalSampler::install().unwrap();
    let (reader, writer) = UnixStream::pair().unwrap();
    let (sender, result) = mpsc::channel();
    let target = TestThread::spawn(
        || (),
        move || {
            let mut byte = 0_u8;
            // SAFETY: at most one byte is written to the variable.
            let read = unsafe { libc::read(reader.as_raw_fd(), (&raw mut byte).cast(), 1) };
            let _ = sender.send((read, byte));
        },
    );
    // Moved here so that it is closed before `target` is joined.
    let mut writer = writer;
    let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
    for byte in [7, 8] {
        for _ in 0..5 {
            assert_eq!(target.sample(&sampler, &mut stack), SampleStatus::Copied);
            target.check(&stack);
        }
        assert!(target.is_found_blocked(&sampler));
        writer.write_all(&[byte]).unwrap();
        assert_eq!(result.recv_timeout(TIMEOUT), Ok((1, byte)));
    }
}

/// The kernel does not restart a sleep, but returns the time that is left.
#[test]
fn a_sleep_is_interrupted_by_the_signal() {
    let _alone = alone();
    let sampler = SignalSampler::install().unwrap();
    assert!(TestThread::spawn(|| (), || thread::sleep(NO_RESPONSE)).is_found_blocked(&sampler));
}
