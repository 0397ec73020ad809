//! Models of the protocol between the requester and the handlers.

use super::*;
use ::loom::{sync::Arc, thread};
use std::sync::atomic::AtomicU64 as Counter;

const THREAD: Tid = Tid(7);
const OTHER_THREAD: Tid = Tid(8);

/// Two words, so that a reader could see one without the other.
type Shared = Arc<SharedSample<[u64; 2]>>;

fn shared() -> Shared {
    Arc::new(SharedSample::new([0; 2]))
}

fn write_mark(sample: &mut [u64; 2], mark: u64) {
    *sample = [mark; 2];
}

/// Starts a handler on a thread of its own.
fn spawn_handler(shared: &Shared, number: u64) -> thread::JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || shared.fulfill(number, THREAD, write_mark))
}

/// Checks that no request is left, and that the sample may be accessed.
fn assert_free(shared: &SharedSample<[u64; 2]>) {
    let mut request = shared.request(THREAD, 99).expect("the sample is free");
    shared.fulfill(request.number(), THREAD, write_mark);
    assert_eq!(request.take(|sample| *sample), Some([99; 2]));
}

#[test]
fn loom_a_request_is_fulfilled_once() {
    ::loom::model(|| {
        let shared = shared();
        let mut request = shared.request(THREAD, 40).unwrap();
        let handler = spawn_handler(&shared, request.number());
        let early = request.take(|sample| *sample);
        handler.join().unwrap();
        let late = request.take(|sample| *sample);
        assert_eq!(early.xor(late), Some([40; 2]), "{early:?} {late:?}");
        assert_free(&shared);
    });
}

/// The requester learns of the copy only from the state: it does not join the handler before.
#[test]
fn loom_a_taken_sample_is_complete() {
    ::loom::model(|| {
        let shared = shared();
        let mut request = shared.request(THREAD, 40).unwrap();
        let handler = spawn_handler(&shared, request.number());
        let sample = loop {
            match request.take(|sample| *sample) {
                Some(sample) => break sample,
                None => thread::yield_now(),
            }
        };
        assert_eq!(sample, [40; 2]);
        handler.join().unwrap();
        assert_free(&shared);
    });
}

#[test]
fn loom_only_the_requested_thread_fulfills_a_request() {
    ::loom::model(|| {
        let shared = shared();
        drop(shared.request(THREAD, 40));
        let handler = spawn_handler(&shared, 2);
        let mut request = shared.request(OTHER_THREAD, 50).unwrap();
        assert_eq!(request.number(), 2);
        handler.join().unwrap();
        assert_eq!(request.take(|sample| *sample), None);
        drop(request);
        assert_free(&shared);
    });
}

/// The handler may run before the request, whose number is all that it has.
#[test]
fn loom_a_sample_uses_the_mark_of_its_request() {
    ::loom::model(|| {
        let shared = shared();
        let handler = spawn_handler(&shared, 1);
        let mut request = shared.request(THREAD, 40).unwrap();
        assert_eq!(request.number(), 1);
        handler.join().unwrap();
        if let Some(sample) = request.take(|sample| *sample) {
            assert_eq!(sample, [40; 2]);
        }
        drop(request);
        assert_free(&shared);
    });
}

/// loom's cell fails if two threads access the sample at the same time.
#[test]
fn loom_at_most_one_handler_copies() {
    ::loom::model(|| {
        let shared = shared();
        let copies = Arc::new(Counter::new(0));
        let mut request = shared.request(THREAD, 40).unwrap();
        let handlers = [0, 1].map(|_| {
            let (shared, copies, number) =
                (Arc::clone(&shared), Arc::clone(&copies), request.number());
            thread::spawn(move || {
                shared.fulfill(number, THREAD, |sample, mark| {
                    copies.fetch_add(1, Ordering::Relaxed);
                    write_mark(sample, mark);
                });
            })
        });
        let early = request.take(|sample| *sample);
        for handler in handlers {
            handler.join().unwrap();
        }
        let late = request.take(|sample| *sample);
        assert_eq!(copies.load(Ordering::Relaxed), 1);
        assert_eq!(early.xor(late), Some([40; 2]), "{early:?} {late:?}");
        assert_free(&shared);
    });
}

/// After `cancel` the test writes to the sample itself, which loom's cell reports if the
/// handler accesses it, too.
#[test]
fn loom_a_signal_after_a_cancelled_request_writes_nothing() {
    ::loom::model(|| {
        let shared = shared();
        let mut request = shared.request(THREAD, 40).unwrap();
        let handler = spawn_handler(&shared, request.number());
        let is_cancelled = request.cancel();
        if is_cancelled {
            // SAFETY: there is no request, so the sample is not accessed otherwise.
            shared.sample.with_mut(|sample| unsafe { *sample = [50; 2] });
        }
        handler.join().unwrap();
        if is_cancelled {
            assert_eq!(request.take(|sample| *sample), None);
            // SAFETY: as above.
            shared.sample.with(|sample| assert_eq!(unsafe { *sample }, [50; 2]));
        }
        drop(request);
        assert_free(&shared);
    });
}

#[test]
fn loom_a_late_signal_does_not_fulfill_the_next_request() {
    ::loom::model(|| {
        let shared = shared();
        let first = shared.request(THREAD, 40).unwrap();
        let handler = spawn_handler(&shared, first.number());
        drop(first);
        // Refused while the handler is copying for the request that was dropped.
        if let Some(mut second) = shared.request(THREAD, 50) {
            assert_eq!(second.take(|sample| *sample), None);
            shared.fulfill(second.number(), THREAD, write_mark);
            assert_eq!(second.take(|sample| *sample), Some([50; 2]));
        }
        handler.join().unwrap();
        assert_free(&shared);
    });
}

#[test]
fn loom_a_dropped_request_leaves_the_sample_free() {
    ::loom::model(|| {
        let shared = shared();
        let mut request = shared.request(THREAD, 40).unwrap();
        let handler = spawn_handler(&shared, request.number());
        if let Some(sample) = request.take(|sample| *sample) {
            assert_eq!(sample, [40; 2]);
        }
        drop(request);
        handler.join().unwrap();
        assert_free(&shared);
    });
}

/// Each requester is its own handler, as two threads that sample one another would be.
#[test]
fn loom_concurrent_requests_do_not_mix() {
    ::loom::model(|| {
        let shared = shared();
        let sample = |shared: &Shared, thread: Tid, mark: u64| {
            let Some(mut request) = shared.request(thread, mark) else { return };
            shared.fulfill(request.number(), thread, write_mark);
            assert_eq!(request.take(|sample| *sample), Some([mark; 2]));
        };
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || sample(&shared, OTHER_THREAD, 50))
        };
        sample(&shared, THREAD, 40);
        other.join().unwrap();
        assert_free(&shared);
    });
}
