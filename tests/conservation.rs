//! Nothing is lost and nothing counts twice, whatever becomes of requests and on whatever thread.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(all(feature = "axum", feature = "prometheus"))]

mod support;

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::thread;

use http::{Request, Response};
use http_body::Body;
use support::{Script, Step, by_path, eventually, get, scrape, stats};
use tower::{Layer, Service, service_fn};
use tower_stall::{StallBody, StallFuture, StallService};

const THREADS: u64 = 4;
const REQUESTS: u64 = 100_000;
/// The most that wait in the lost-property office for another thread.
const WAITING: usize = 64;
const PATH: &str = "/conservation";

/// What the panics say that are part of the test.
const PANICS: [&str; 3] = ["in the call", "in the future", "written down"];

type Outcomes = BTreeMap<&'static str, u64>;
type Work = Pin<Box<dyn Future<Output = Result<Response<Script>, &'static str>> + Send>>;
type Inner = <Measured as Service<Request<Plan>>>::Future;
type Measured = tower::util::BoxCloneSyncService<Request<Plan>, Response<Script>, &'static str>;

/// What a request does, and how it has to count.
#[derive(Clone, Copy, Debug)]
struct Plan {
    waits: u64,
    fate: Fate,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Read,
    Fail,
    FailInBody,
    Panic,
    PanicInBody,
    PanicInCall,
    Drop,
    DropBody,
    DropReadBody,
}

/// A request that is not over.
enum Open {
    Future(Pin<Box<StallFuture<Inner>>>, Plan),
    Body(StallBody<Script>, Plan),
}

impl Fate {
    const ALL: [Self; 9] = [
        Self::Read,
        Self::Fail,
        Self::FailInBody,
        Self::Panic,
        Self::PanicInBody,
        Self::PanicInCall,
        Self::Drop,
        Self::DropBody,
        Self::DropReadBody,
    ];

    fn outcome(self) -> &'static str {
        match self {
            Self::Read => "2xx",
            Self::Fail | Self::FailInBody => "error",
            Self::Panic | Self::PanicInBody | Self::PanicInCall => "panicked",
            Self::Drop | Self::DropBody | Self::DropReadBody => "cancelled",
        }
    }

    fn body(self) -> Script {
        let last = match self {
            Self::FailInBody => Step::Fail,
            Self::PanicInBody => Step::Panic,
            _ => Step::Data(1),
        };
        Script::new([Step::Data(1), Step::Wait, last])
    }
}

/// A sequence without a pattern, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn plan(&mut self) -> Plan {
        Plan { waits: self.below(4), fate: Fate::ALL[self.below(Fate::ALL.len() as u64) as usize] }
    }
}

fn serve(request: &Request<Plan>) -> Work {
    let Plan { waits, fate } = *request.body();
    assert!(!matches!(fate, Fate::PanicInCall), "in the call");
    Box::pin(async move {
        for _ in 0..waits {
            let mut waited = false;
            std::future::poll_fn(
                |_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending },
            )
            .await;
        }
        match fate {
            Fate::Fail => Err("written down"),
            Fate::Panic => panic!("in the future"),
            Fate::Drop => std::future::pending().await,
            _ => Ok(Response::new(fate.body())),
        }
    })
}

/// Polls a request once. What is left of it, if it is not over.
fn step(open: Open) -> Option<Open> {
    let cx = &mut Context::from_waker(Waker::noop());
    match open {
        Open::Future(mut future, plan) => match future.as_mut().poll(cx) {
            Poll::Pending if matches!(plan.fate, Fate::Drop) && plan.waits == 0 => None,
            Poll::Pending => Some(Open::Future(future, Plan { waits: plan.waits.saturating_sub(1), ..plan })),
            Poll::Ready(Err(_)) => None,
            Poll::Ready(Ok(_)) if matches!(plan.fate, Fate::DropBody) => None,
            Poll::Ready(Ok(response)) => Some(Open::Body(response.into_body(), plan)),
        },
        Open::Body(mut body, plan) => match Pin::new(&mut body).poll_frame(cx) {
            Poll::Pending if matches!(plan.fate, Fate::DropReadBody) => None,
            Poll::Pending | Poll::Ready(Some(Ok(_))) => Some(Open::Body(body, plan)),
            Poll::Ready(_) => None,
        },
    }
}

/// Takes requests as far as they go, each step on whichever thread finds it.
fn drive(mut service: StallService<Measured>, mut random: Random, office: &Mutex<Vec<Open>>) -> Outcomes {
    let mut started = Outcomes::new();
    for _ in 0..REQUESTS / THREADS {
        let plan = random.plan();
        *started.entry(plan.fate.outcome()).or_default() += 1;
        let request = get(PATH).map(|()| plan);
        let Ok(future) = catch_unwind(AssertUnwindSafe(|| service.call(request))) else { continue };
        let mut open = Some(Open::Future(Box::pin(future), plan));
        while let Some(now) = open.take() {
            let now = if random.below(8) == 0 { exchange(office, now, &mut random) } else { Some(now) };
            open = catch_unwind(AssertUnwindSafe(|| now.and_then(step))).ok().flatten();
        }
    }
    started
}

/// Leaves a request for another thread, and takes one that another left if there are many.
fn exchange(office: &Mutex<Vec<Open>>, left: Open, random: &mut Random) -> Option<Open> {
    let mut office = office.lock().unwrap();
    office.push(left);
    let is_full = office.len() > WAITING;
    let any = random.below(office.len() as u64) as usize;
    is_full.then(|| office.swap_remove(any))
}

fn total(outcomes: &Outcomes) -> u64 {
    outcomes.values().sum()
}

/// The scraped outcomes, as they are told.
fn scraped() -> (Outcomes, u64) {
    let now = scrape();
    (now.outcomes(PATH).into_iter().collect(), now.in_flight(PATH))
}

/// Drops what is open, which makes it cancelled instead of what it was planned to be.
fn cancel(office: Vec<Open>, expected: &mut Outcomes) {
    for open in office {
        let (Open::Future(_, plan) | Open::Body(_, plan)) = &open;
        *expected.entry(plan.fate.outcome()).or_default() -= 1;
        *expected.entry("cancelled").or_default() += 1;
        drop(open);
    }
}

/// A test that a hundred thousand requests are each either over, once and in the outcome that is true, or in flight: when they fail,
/// panic, are dropped at any point, and go from thread to thread meanwhile.
#[tokio::test]
async fn started_is_ended_and_in_flight() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let is_planned = PANICS.iter().any(|planned| info.payload_as_str().is_some_and(|said| said.contains(planned)));
        if !is_planned {
            hook(info);
        }
    }));
    let monitor = by_path().spawn().unwrap();
    let inner = Measured::new(service_fn(|request: Request<Plan>| serve(&request)));
    let service = monitor.layer().layer(inner);
    let office = Mutex::default();
    let mut expected = Outcomes::new();
    thread::scope(|scope| {
        let thread = |seed| {
            let (service, office) = (service.clone(), &office);
            scope.spawn(move || drive(service, Random(seed), office))
        };
        let threads: Vec<_> = (1..=THREADS).map(|seed| thread(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed))).collect();
        let counts: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        for (outcome, count) in counts.into_iter().flat_map(Result::unwrap) {
            *expected.entry(outcome).or_default() += count;
        }
    });
    assert_eq!(total(&expected), REQUESTS);

    let open = office.into_inner().unwrap();
    assert_eq!(open.len(), WAITING);
    let now = stats(&monitor, "GET", PATH).unwrap();
    assert_eq!((now.requests(), now.in_flight()), (REQUESTS, WAITING as u64));
    let mut ended = expected.clone();
    for Open::Future(_, plan) | Open::Body(_, plan) in &open {
        *ended.entry(plan.fate.outcome()).or_default() -= 1;
    }
    eventually("the text tells of all that ended", || total(&scraped().0) >= REQUESTS - WAITING as u64);
    assert_eq!(scraped(), (ended, WAITING as u64));

    cancel(open, &mut expected);
    let now = stats(&monitor, "GET", PATH).unwrap();
    assert_eq!((now.requests(), now.in_flight()), (REQUESTS, 0));
    eventually("the text tells of all", || total(&scraped().0) >= REQUESTS);
    assert_eq!(scraped(), (expected, 0));
    histograms_agree(now.polls());
}

/// The scraped histograms count the same requests and polls.
fn histograms_agree(polls: u64) {
    let route = [("route", PATH)];
    let counts = || {
        let now = scrape();
        let count = |name| now.sum(name, &route) as u64;
        let requests = count("tower_stall_request_duration_seconds_count");
        let busy = count("tower_stall_request_busy_seconds_count");
        (requests, busy, count("tower_stall_poll_duration_seconds_count"))
    };
    eventually("the text tells of all polls", || counts() >= (REQUESTS, REQUESTS, polls));
    assert_eq!(counts(), (REQUESTS, REQUESTS, polls));
}
