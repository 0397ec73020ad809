//! The kinds of work that block.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::block::{compute, sleep};
use crate::client::{get, send};
use crate::service::Service;
use crate::{Observed, WORKERS};

/// How many threads the blocking pool has, and all of them are occupied, if it has none left.
pub(crate) const OCCUPIED_THREADS: usize = 2;

/// After so long, work that does not end is looked at: an unmeasured thread that runs is believed to
/// be stalled after 61 polls of 25 ms, and a stall in progress is reported after a second.
const LOOK_AFTER: Duration = Duration::from_millis(2_500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Handler,
    ComputingHandler,
    Task,
    ComputingTask,
    DropOfCancelled,
    OuterMiddleware,
    InPlace,
    InPlaceComputing,
    InPlaceEndless,
    InPlaceWithoutThread,
    PoolThread,
    MeasuredPoolThread,
}

impl Work {
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "handler" => Self::Handler,
            "computing-handler" => Self::ComputingHandler,
            "task" => Self::Task,
            "computing-task" => Self::ComputingTask,
            "drop-of-cancelled" => Self::DropOfCancelled,
            "outer-middleware" => Self::OuterMiddleware,
            "in-place" => Self::InPlace,
            "in-place-computing" => Self::InPlaceComputing,
            "in-place-endless" => Self::InPlaceEndless,
            "in-place-without-thread" => Self::InPlaceWithoutThread,
            "pool-thread" => Self::PoolThread,
            "measured-pool-thread" => Self::MeasuredPoolThread,
            _ => return None,
        })
    }

    /// Does the work, and returns when it has ended; if it does not end by itself, returns what
    /// `observe` has seen meanwhile.
    pub(crate) fn run(self, service: &Service, observe: &dyn Fn() -> Observed) -> Option<Observed> {
        let (addr, depth) = (service.addr, service.depth);
        let request = |path| drop(get(addr, path).unwrap());
        let task = |f: Box<dyn FnOnce() + Send>| {
            let task = service.runtime.spawn(async move { f() });
            service.runtime.block_on(task).unwrap();
        };
        match self {
            Self::Handler => request("/sleeping"),
            Self::ComputingHandler => request("/computing"),
            Self::Task => task(Box::new(move || sleep(depth))),
            Self::ComputingTask => task(Box::new(move || compute(depth))),
            Self::DropOfCancelled => cancel(service),
            Self::OuterMiddleware => request("/behind-middleware"),
            Self::InPlace => request("/in-place"),
            Self::InPlaceComputing => request("/in-place-computing"),
            Self::InPlaceEndless => {
                let _requests = send_endless(service, 1);
                service.gate.wait_for(1);
                thread::sleep(LOOK_AFTER);
                return Some(observe());
            }
            Self::InPlaceWithoutThread => {
                return Some(without_thread(service, observe));
            }
            Self::PoolThread => on_pool_thread(service, async move { sleep(depth) }),
            Self::MeasuredPoolThread => {
                let work = async move { sleep(depth) };
                on_pool_thread(service, service.monitor.instrument("on-pool-thread", work));
            }
        }
        None
    }
}

/// Cancels a request whose future blocks when it is dropped.
fn cancel(service: &Service) {
    let connection = send(service.addr, "/cancelled").unwrap();
    let guarded = service.guarded.lock().unwrap();
    guarded.recv().unwrap();
    drop(connection);
    guarded.recv().unwrap();
}

fn on_pool_thread(service: &Service, work: impl Future<Output = ()> + Send + 'static) {
    let runtime = service.runtime.clone();
    let thread = service.runtime.spawn_blocking(move || runtime.block_on(work));
    service.runtime.block_on(thread).unwrap();
}

/// Occupies all workers in `block_in_place` while no thread is free to take one over.
fn without_thread(service: &Service, observe: &dyn Fn() -> Observed) -> Observed {
    for _ in 0..OCCUPIED_THREADS {
        let gate = service.gate.clone();
        service.runtime.spawn_blocking(move || gate.block(Default::default()));
    }
    service.gate.wait_for(OCCUPIED_THREADS);
    let requests = send_endless(service, WORKERS);
    service.gate.wait_for(OCCUPIED_THREADS + WORKERS);
    thread::sleep(LOOK_AFTER);
    let observed = observe();
    service.gate.open();
    for request in requests {
        request.join().unwrap().unwrap();
    }
    observed
}

/// Sends requests that end when the gate is opened.
fn send_endless(service: &Service, requests: usize) -> Vec<JoinHandle<io::Result<String>>> {
    let addr = service.addr;
    (0..requests).map(|_| thread::spawn(move || get(addr, "/in-place-endless"))).collect()
}
