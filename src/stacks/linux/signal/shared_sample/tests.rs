use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use super::*;

const THREAD: Tid = Tid(7);

fn write_mark(sample: &mut u64, mark: u64) {
    *sample = mark;
}

#[test]
fn a_request_is_fulfilled_once_and_taken_once() {
    let shared = SharedSample::new(0);
    let mut request = shared.request(THREAD, 40).unwrap();
    assert_eq!(request.take(|sample| *sample), None);
    shared.fulfill(request.number(), THREAD, write_mark);
    shared.fulfill(request.number(), THREAD, |_, _| panic!("fulfilled twice"));
    assert!(shared.request(THREAD, 41).is_none(), "two requests at a time");
    assert_eq!(request.take(|sample| *sample), Some(40));
    assert_eq!(request.take(|sample| *sample), None);
    assert!(request.cancel());
}

#[test]
fn only_the_requested_thread_fulfills_only_the_current_number() {
    let shared = SharedSample::new(0);
    let mut request = shared.request(THREAD, 40).unwrap();
    let number = request.number();
    shared.fulfill(number, Tid(8), |_, _| panic!("another thread fulfilled it"));
    shared.fulfill(number - 1, THREAD, |_, _| panic!("an old signal was fulfilled"));
    assert!(request.cancel());
    shared.fulfill(number, THREAD, |_, _| panic!("a cancelled request was fulfilled"));
}

#[test]
fn a_request_dropped_during_the_copy_is_freed_by_the_handler() {
    let shared = SharedSample::new(0);
    let mut request = shared.request(THREAD, 40).unwrap();
    shared.fulfill(request.number(), THREAD, |_, _| {
        assert!(!request.cancel());
        assert_eq!(request.take(|sample| *sample), None);
        drop(request);
        assert!(shared.request(THREAD, 41).is_none());
    });
    assert!(shared.request(THREAD, 41).is_some());
}

#[test]
fn a_request_dropped_after_the_copy_is_freed() {
    let shared = SharedSample::new(0);
    let request = shared.request(THREAD, 40).unwrap();
    shared.fulfill(request.number(), THREAD, write_mark);
    drop(request);
    assert!(shared.request(THREAD, 41).is_some());
}

#[test]
fn of_two_concurrent_requests_one_is_refused() {
    let shared = SharedSample::new(0);
    let requester = || {
        let start = Instant::now();
        let mut numbers = Vec::new();
        while start.elapsed() < Duration::from_millis(300) {
            numbers.extend(shared.request(THREAD, 0).map(|request| request.number()));
        }
        numbers
    };
    let mut numbers = thread::scope(|scope| {
        [scope.spawn(requester), scope.spawn(requester)]
            .map(|thread| thread.join().unwrap())
            .concat()
    });
    let requests = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), requests, "two requests had the same number");
}

/// Another thread fulfills all requests, and takes its time for each.
#[test]
fn nothing_changes_the_state_after_a_cancelled_request() {
    let shared = SharedSample::new([0; 4096]);
    let stop = AtomicBool::new(false);
    let handler = || {
        while !stop.load(Ordering::Relaxed) {
            let number = State(shared.state.load(Ordering::Relaxed)).number();
            shared.fulfill(number, THREAD, |sample, mark| sample.fill(mark));
        }
    };
    thread::scope(|scope| {
        scope.spawn(handler);
        let start = Instant::now();
        let mut last = 0;
        for spins in (0..50).cycle().take_while(|_| start.elapsed().as_millis() < 500) {
            let mut request = shared.request(THREAD, last).unwrap();
            assert_eq!(request.number(), last + 1);
            (0..spins).for_each(|_| std::hint::spin_loop());
            while !request.cancel() {}
            last = request.number();
        }
        stop.store(true, Ordering::Relaxed);
    });
}
