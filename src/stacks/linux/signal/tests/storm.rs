use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use super::*;
use crate::os::monotonic_nanos;

/// The durations of the handler's runs, in nanoseconds.
static DURATIONS: [AtomicU64; 4096] = [const { AtomicU64::new(0) }; 4096];
static RUNS: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn timed(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let start = monotonic_nanos();
    // SAFETY: the arguments come from the kernel.
    unsafe { on_signal(signal, info, context) };
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    DURATIONS[run % DURATIONS.len()].store(monotonic_nanos() - start, Ordering::Relaxed);
}

fn print_percentiles(name: &str, mut values: Vec<u64>, unit: f64) {
    values.sort_unstable();
    let at = |part: f64| values[((values.len() - 1) as f64 * part) as usize] as f64 * unit;
    println!(
        "{name}: p50 {:.2} p99 {:.2} max {:.2} us of {}",
        at(0.5),
        at(0.99),
        at(1.0),
        values.len()
    );
}

fn panics() {
    let _ = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(vec![7; 100])));
}

fn allocates() {
    drop(black_box(vec![0_u8; 5000]));
}

fn formats() {
    drop(black_box(format!("{:?}", Instant::now())));
}

fn sleeps() {
    thread::sleep(Duration::from_micros(50));
}

/// Samples one thread after the other, as fast as they respond.
fn sample_all(name: &str, targets: &[TestThread], sampler: &SignalSampler, time: Duration) {
    let mut stack = StackSnapshot::with_capacity(DEEP_CAPACITY);
    let (mut cancelled, mut round_trips) = (0, Vec::new());
    RUNS.store(0, Ordering::Relaxed);
    let start = Instant::now();
    for target in targets.iter().cycle().take_while(|_| start.elapsed() < time) {
        let requested_at = Instant::now();
        // Every second sample is of the whole stack.
        let mark = if round_trips.len() % 2 == 0 { target.words } else { u64::MAX };
        let mut request = target.request_soon(sampler, mark);
        match wait(&mut request, &mut stack, Duration::from_millis(100)) {
            SampleStatus::Copied => {
                round_trips.push(requested_at.elapsed().as_nanos() as u64);
                stack.mark = target.words;
                target.check(&stack);
            }
            SampleStatus::Pending => cancelled += 1,
            SampleStatus::Unreadable => panic!("every stack pointer is readable"),
        }
    }
    println!("{name}: {cancelled} cancelled");
    print_percentiles("  round trip", round_trips, 1e-3);
    let runs = RUNS.load(Ordering::Relaxed).min(DURATIONS.len());
    print_percentiles(
        "  handler",
        DURATIONS[..runs].iter().map(|run| run.load(Ordering::Relaxed)).collect(),
        1e-3,
    );
}

#[test]
#[ignore = "five seconds at full load"]
fn threads_survive_a_storm_of_signals() {
    let _alone = alone();
    let sampler = SignalSampler::install().unwrap();
    replace_handler(timed);
    let several =
        [panics, allocates, formats, sleeps].map(|repeat| TestThread::spawn(|| (), repeat));
    sample_all("four threads", &several, &sampler, Duration::from_secs(2));
    drop(several);
    // Without `sleeps`: with each signal the kernel adds its slack of 50 us to a sleep, which would
    // then never end.
    let all = || [panics, allocates, formats].iter().for_each(|repeat| repeat());
    let one = [TestThread::spawn(|| (), all)];
    sample_all("one thread", &one, &sampler, Duration::from_secs(2));
    sample_all("a busy thread", &[TestThread::busy()], &sampler, Duration::from_secs(1));
    set_handler(libc::SIG_DFL, 0);
}
