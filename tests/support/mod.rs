//! What the tests share: the scraped metrics, waiting, and a body whose frames are written down.
#![allow(dead_code)] // No test uses all of it.

#[path = "../../examples/blocking_or_not/lab/scrape.rs"]
mod scrape;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tower_stall::{RouteStats, StallMonitor, StallMonitorBuilder};

pub(crate) use self::scrape::Scrape;

const DEADLINE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) const OUTCOMES: [&str; 8] = ["1xx", "2xx", "3xx", "4xx", "5xx", "error", "cancelled", "panicked"];

// === Metrics ===

/// Installs the one recorder of this test binary, and serves it.
fn server() -> SocketAddr {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    *SERVER.get_or_init(|| tower_stall::prometheus::serve(([127, 0, 0, 1], 0)).unwrap().local_addr())
}

/// Scrapes the one recorder of this test binary, over a socket.
pub(crate) fn scrape() -> Scrape {
    let mut stream = TcpStream::connect(server()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    Scrape(text.into())
}

impl Scrape {
    /// Whether there is a series of this name that has all of these labels.
    pub(crate) fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.values(name, labels).next().is_some()
    }

    /// How often requests of a route ended in each outcome, without those that never happened.
    pub(crate) fn outcomes(&self, route: &str) -> Vec<(&'static str, u64)> {
        let count = |outcome| self.sum("tower_stall_requests_total", &[("route", route), ("outcome", outcome)]) as u64;
        OUTCOMES.map(|outcome| (outcome, count(outcome))).into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Fails if the text has `needle` anywhere.
    #[track_caller]
    pub(crate) fn assert_lacks(&self, needle: &str) {
        assert!(!self.0.contains(needle), "{needle} is in the text");
    }

    /// The gauge of requests in flight.
    pub(crate) fn in_flight(&self, route: &str) -> u64 {
        self.sum("tower_stall_requests_in_flight", &[("route", route)]) as u64
    }
}

/// Waits until the scraped outcomes of a route are these, and no other, and nothing is in flight.
#[track_caller]
pub(crate) fn assert_outcomes(route: &str, expected: &[(&str, u64)]) {
    let mut last = Vec::new();
    let total: u64 = expected.iter().map(|(_, count)| count).sum();
    let seen = wait_for(|| {
        let now = scrape();
        last = now.outcomes(route);
        let ended: u64 = last.iter().map(|(_, count)| count).sum();
        (ended >= total && now.in_flight(route) == 0).then(|| last.clone())
    });
    let seen = seen.unwrap_or(last);
    assert_eq!(seen, expected, "the outcomes of {route}");
}

// === Waiting ===

/// Waits for a condition, half a minute at most.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    assert!(wait_for(|| is_so().then_some(())).is_some(), "it never came to be that {what}");
}

fn wait_for<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        if let Some(found) = attempt() {
            return Some(found);
        }
        std::thread::sleep(PAUSE);
    }
    None
}

// === Monitors ===

/// A monitor that can be scraped from its first request on.
pub(crate) fn builder() -> StallMonitorBuilder {
    server();
    StallMonitor::builder()
}

/// A monitor that takes the path for the route.
pub(crate) fn by_path() -> StallMonitorBuilder {
    builder().route_label(|_, uri| Some(uri.path().into()))
}

/// What a monitor has counted for a route, if anything.
pub(crate) fn stats(monitor: &StallMonitor, method: &str, route: &str) -> Option<RouteStats> {
    monitor.routes().into_iter().find(|stats| stats.method() == method && stats.route() == route)
}

/// Requests in flight of a `GET` route.
pub(crate) fn in_flight(monitor: &StallMonitor, route: &str) -> u64 {
    stats(monitor, "GET", route).map_or(0, |stats| stats.in_flight())
}

// === Bodies ===

pub(crate) fn get(path: &str) -> Request<()> {
    Request::get(path).body(()).unwrap()
}

/// A body that does what is written down, then ends.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) steps: VecDeque<Step>,
    /// Whether it says that it is at its end once no step is left.
    pub(crate) tells_end: bool,
    /// Whether it says how many bytes are left.
    pub(crate) tells_size: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Data(usize),
    Wait,
    Fail,
    Panic,
}

impl Script {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), ..Self::default() }
    }

    pub(crate) fn response(self) -> Result<Response<Self>, Infallible> {
        Ok(Response::new(self))
    }

    fn left(&self) -> usize {
        self.steps.iter().map(|step| if let Step::Data(size) = step { *size } else { 0 }).sum()
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Ready(match self.steps.pop_front() {
            Some(Step::Data(size)) => Some(Ok(Frame::data(vec![b'x'; size].into()))),
            Some(Step::Wait) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Step::Fail) => Some(Err(std::io::Error::other("written down"))),
            Some(Step::Panic) => panic!("written down"),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.tells_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.tells_size { SizeHint::with_exact(self.left() as u64) } else { SizeHint::new() }
    }
}
