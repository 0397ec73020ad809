//! Tests that no request is lost or counted twice, however it ends and on whichever threads.
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
use support::{Random, SCRIPTED, Script, Step, by_path, eventually, get, scrape, stats};
use tower::{Layer, Service, service_fn};
use tower_stall::{StallBody, StallFuture, StallService};

const THREADS: u64 = 4;
const REQUESTS: u64 = 100_000;
/// With the one that confirms the route.
const TOTAL: u64 = REQUESTS + 1;
/// The number of requests kept open for another thread to continue.
const OPEN: usize = 64;
const PATH: &str = "/conservation";

/// The messages of the panics that are part of the test.
const PANICS: [&str; 3] = ["in the call", "in the future", SCRIPTED];

type Outcomes = BTreeMap<&'static str, u64>;
type Work = Pin<Box<dyn Future<Output = Result<Response<Script>, &'static str>> + Send>>;
type Inner = <Measured as Service<Request<Plan>>>::Future;
type Measured = tower::util::BoxCloneSyncService<Request<Plan>, Response<Script>, &'static str>;

/// What a request does, and how it must be counted.
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

/// A request in flight.
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

impl Plan {
    fn any(random: &mut Random) -> Self {
        let fate = Fate::ALL[random.below(Fate::ALL.len() as u64) as usize];
        Self { waits: random.below(4), fate }
    }
}

fn serve(request: &Request<Plan>) -> Work {
    let Plan { waits, fate } = *request.body();
    assert!(!matches!(fate, Fate::PanicInCall), "in the call");
    Box::pin(async move {
        for _ in 0..waits {
            let mut waited = false;
            std::future::poll_fn(|_| {
                if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        match fate {
            Fate::Fail => Err(SCRIPTED),
            Fate::Panic => panic!("in the future"),
            Fate::Drop => std::future::pending().await,
            _ => Ok(Response::new(fate.body())),
        }
    })
}

/// Polls a request once, and returns it if it is still in flight.
fn step(open: Open) -> Option<Open> {
    let cx = &mut Context::from_waker(Waker::noop());
    match open {
        Open::Future(mut future, plan) => match future.as_mut().poll(cx) {
            Poll::Pending if matches!(plan.fate, Fate::Drop) && plan.waits == 0 => None,
            Poll::Pending => {
                Some(Open::Future(future, Plan { waits: plan.waits.saturating_sub(1), ..plan }))
            }
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

/// Drives requests to their ends. Between two steps a request may move to another thread.
fn drive(
    mut service: StallService<Measured>,
    mut random: Random,
    shared: &Mutex<Vec<Open>>,
) -> Outcomes {
    let mut started = Outcomes::new();
    for _ in 0..REQUESTS / THREADS {
        let plan = Plan::any(&mut random);
        *started.entry(plan.fate.outcome()).or_default() += 1;
        let request = get(PATH).map(|()| plan);
        let Ok(future) = catch_unwind(AssertUnwindSafe(|| service.call(request))) else { continue };
        let mut open = Some(Open::Future(Box::pin(future), plan));
        while let Some(now) = open.take() {
            let now =
                if random.below(8) == 0 { exchange(shared, now, &mut random) } else { Some(now) };
            open = catch_unwind(AssertUnwindSafe(|| now.and_then(step))).ok().flatten();
        }
    }
    started
}

/// Drives one request to its end. What is handed over before the first answer of a route is in the
/// row `unmatched`.
fn confirm_route(mut service: StallService<Measured>) {
    let plan = Plan { waits: 0, fate: Fate::Read };
    let mut open = Some(Open::Future(Box::pin(service.call(get(PATH).map(|()| plan))), plan));
    while let Some(now) = open.take() {
        open = step(now);
    }
}

/// Leaves a request for other threads, and takes one of those left if there are enough.
fn exchange(shared: &Mutex<Vec<Open>>, left: Open, random: &mut Random) -> Option<Open> {
    let mut shared = shared.lock().unwrap();
    shared.push(left);
    let is_enough = shared.len() > OPEN;
    let any = random.below(shared.len() as u64) as usize;
    is_enough.then(|| shared.swap_remove(any))
}

fn total(outcomes: &Outcomes) -> u64 {
    outcomes.values().sum()
}

/// Returns the scraped outcomes, and the requests in flight.
fn scraped() -> (Outcomes, u64) {
    let now = scrape();
    (now.outcomes(PATH).into_iter().collect(), now.in_flight(PATH))
}

/// Drops open requests, whose outcome is then `cancelled` instead of the planned one.
fn cancel(shared: Vec<Open>, expected: &mut Outcomes) {
    for open in shared {
        let (Open::Future(_, plan) | Open::Body(_, plan)) = &open;
        *expected.entry(plan.fate.outcome()).or_default() -= 1;
        *expected.entry("cancelled").or_default() += 1;
        drop(open);
    }
}

/// A hundred thousand requests each end once, under their true outcome, or are in flight, while
/// they fail, panic, are dropped at any point and move between threads.
#[tokio::test]
async fn every_request_has_ended_or_is_in_flight() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.to_string();
        let is_planned = PANICS.iter().any(|planned| text.contains(planned));
        if !is_planned {
            hook(info);
        }
    }));
    let monitor = by_path().spawn().unwrap();
    let inner = Measured::new(service_fn(|request: Request<Plan>| serve(&request)));
    let service = monitor.layer().layer(inner);
    confirm_route(service.clone());
    let shared = Mutex::default();
    let mut expected = Outcomes::from([("2xx", 1)]);
    thread::scope(|scope| {
        let thread = |number| {
            let (service, shared) = (service.clone(), &shared);
            scope.spawn(move || drive(service, Random::new(number), shared))
        };
        let threads: Vec<_> = (1..=THREADS).map(thread).collect();
        let counts: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        for (outcome, count) in counts.into_iter().flat_map(Result::unwrap) {
            *expected.entry(outcome).or_default() += count;
        }
    });
    assert_eq!(total(&expected), TOTAL);

    let open = shared.into_inner().unwrap();
    assert_eq!(open.len(), OPEN);
    let now = stats(&monitor, "GET", PATH).unwrap();
    assert_eq!((now.requests(), now.in_flight()), (TOTAL, OPEN as u64));
    let mut ended = expected.clone();
    for Open::Future(_, plan) | Open::Body(_, plan) in &open {
        *ended.entry(plan.fate.outcome()).or_default() -= 1;
    }
    eventually("all that ended are in the text", || total(&scraped().0) >= TOTAL - OPEN as u64);
    assert_eq!(scraped(), (ended, OPEN as u64));

    cancel(open, &mut expected);
    let now = stats(&monitor, "GET", PATH).unwrap();
    assert_eq!((now.requests(), now.in_flight()), (TOTAL, 0));
    eventually("all are in the text", || total(&scraped().0) >= TOTAL);
    assert_eq!(scraped(), (expected, 0));
    assert_histograms_agree(now.polls());
}

/// Checks that the scraped histograms count the same requests and polls.
fn assert_histograms_agree(polls: u64) {
    let route = [("route", PATH)];
    let counts = || {
        let now = scrape();
        let count = |name| now.sum(name, &route) as u64;
        let requests = count("tower_stall_request_duration_seconds_count");
        let busy = count("tower_stall_request_busy_seconds_count");
        (requests, busy, count("tower_stall_poll_duration_seconds_count"))
    };
    eventually("all polls are in the text", || counts() >= (TOTAL, TOTAL, polls));
    assert_eq!(counts(), (TOTAL, TOTAL, polls));
}
