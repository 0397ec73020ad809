//! How requests end: each once, and in the outcome that is true.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(all(feature = "axum", feature = "prometheus"))]

mod support;

use std::any::Any;
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use support::{Script, Step, assert_outcomes, by_path, get, in_flight, scrape, stats};
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use tower_stall::{StallBody, StallMonitor};

type Answer<R> = Result<Response<R>, Infallible>;
type Polled<E> = Poll<Option<Result<usize, E>>>;

/// Starts a request on a measured service that does `work`.
fn call<R: Body, E, F: Future<Output = Result<Response<R>, E>>>(
    monitor: &StallMonitor,
    request: Request<()>,
    work: impl Fn() -> F,
) -> impl Future<Output = Result<Response<StallBody<R>>, E>> {
    monitor.layer().layer(service_fn(move |_| work())).call(request)
}

/// The answer of a measured service whose future is ready with `response`.
fn answer<R: Body>(monitor: &StallMonitor, request: Request<()>, response: Response<R>) -> Response<StallBody<R>> {
    let response = std::cell::Cell::new(Some(response));
    let mut future = task::spawn(call(monitor, request, || ready(Answer::Ok(response.take().unwrap()))));
    let Poll::Ready(Ok(response)) = future.poll() else { panic!("the future was not ready") };
    response
}

fn script(steps: impl IntoIterator<Item = Step>) -> Response<Script> {
    Response::new(Script::new(steps))
}

fn full(text: &'static str) -> Response<Full<Bytes>> {
    Response::new(text.into())
}

/// Polls a body once. What came: the size of its data, if any.
fn poll_frame<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Polled<B::Error> {
    let polled = task::spawn(body).enter(|cx, body| Pin::new(&mut **body.get_mut()).poll_frame(cx));
    polled.map_ok(|frame| frame.data_ref().map_or(0, Bytes::len))
}

fn panics(f: impl FnOnce()) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err()
}

// === Statuses ===

/// A test that an answer read to its end counts once, in the class of its status, and is in flight until then.
#[tokio::test]
async fn each_class_of_status_is_an_outcome() {
    let monitor = by_path().spawn().unwrap();
    for (path, status, outcome) in [
        ("/class/1", 101, "1xx"),
        ("/class/2", 200, "2xx"),
        ("/class/3", 301, "3xx"),
        ("/class/4", 404, "4xx"),
        ("/class/5", 503, "5xx"),
        ("/class/past", 799, "5xx"),
    ] {
        let mut response = script([Step::Wait, Step::Data(3)]);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        let response = answer(&monitor, get(path), response);
        let has_body = u64::from(status != 101);
        assert_eq!(in_flight(&monitor, path), has_body, "{path}");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "xxx");
        assert_eq!(in_flight(&monitor, path), 0, "{path}");
        assert_outcomes(path, &[(outcome, 1)]);
    }
}

/// A test that an error of the service counts as `error`.
#[tokio::test]
async fn a_service_error_is_an_error() {
    let monitor = by_path().spawn().unwrap();
    let failed = call(&monitor, get("/error/service"), || ready(Err::<Response<Script>, _>("no"))).await;
    assert_eq!(failed.unwrap_err(), "no");
    assert_eq!(in_flight(&monitor, "/error/service"), 0);
    assert_outcomes("/error/service", &[("error", 1)]);
}

/// A test that an error of the body counts as `error`, though the status was 200.
#[tokio::test]
async fn a_body_error_is_an_error() {
    let monitor = by_path().spawn().unwrap();
    let response = answer(&monitor, get("/error/body"), script([Step::Data(3), Step::Fail, Step::Data(3)]));
    let mut body = response.into_body();
    assert!(matches!(poll_frame(&mut body), Poll::Ready(Some(Ok(3)))));
    assert!(matches!(poll_frame(&mut body), Poll::Ready(Some(Err(_)))));
    assert_eq!(in_flight(&monitor, "/error/body"), 0);
    // Whoever goes on polling changes nothing.
    assert!(matches!(poll_frame(&mut body), Poll::Ready(Some(Ok(3)))));
    assert!(matches!(poll_frame(&mut body), Poll::Ready(None)));
    drop(body);
    assert_outcomes("/error/body", &[("error", 1)]);
}

// === Drops ===

/// A test that a future dropped before its answer counts as `cancelled`, polled or not.
#[tokio::test]
async fn a_dropped_future_is_cancelled() {
    let monitor = by_path().spawn().unwrap();
    let never = || pending::<Answer<Script>>();
    let unpolled = call(&monitor, get("/drop/future"), never);
    let mut polled = task::spawn(call(&monitor, get("/drop/future"), never));
    assert_pending!(polled.poll());
    assert_eq!(in_flight(&monitor, "/drop/future"), 2);
    drop((unpolled, polled));
    assert_eq!(in_flight(&monitor, "/drop/future"), 0);
    assert_outcomes("/drop/future", &[("cancelled", 2)]);
}

/// A test that a body dropped before its end counts as `cancelled`, polled or not.
#[tokio::test]
async fn a_dropped_body_is_cancelled() {
    let monitor = by_path().spawn().unwrap();
    let response = || script([Step::Data(3), Step::Wait, Step::Data(3)]);
    let unpolled = answer(&monitor, get("/drop/body"), response());
    let mut polled = answer(&monitor, get("/drop/body"), response()).into_body();
    assert!(poll_frame(&mut polled).is_ready());
    assert!(poll_frame(&mut polled).is_pending());
    assert_eq!(in_flight(&monitor, "/drop/body"), 2);
    drop((unpolled, polled));
    assert_eq!(in_flight(&monitor, "/drop/body"), 0);
    assert_outcomes("/drop/body", &[("cancelled", 2)]);
}

/// A test that a request which begins on one thread and is dropped on another counts once.
#[tokio::test]
async fn a_future_dropped_on_another_thread_is_cancelled() {
    let monitor = by_path().spawn().unwrap();
    let never = || pending::<Answer<Script>>();
    let mut future = Box::pin(task::spawn(call(&monitor, get("/drop/elsewhere"), never)));
    assert_pending!(future.poll());
    std::thread::scope(|scope| scope.spawn(move || assert_pending!(future.poll())).join().unwrap());
    let stats = stats(&monitor, "GET", "/drop/elsewhere").unwrap();
    assert_eq!((stats.requests(), stats.in_flight(), stats.polls()), (1, 0, 3));
    assert_outcomes("/drop/elsewhere", &[("cancelled", 1)]);
}

/// A test that a request which is dropped with its thread's own storage counts once, be it before the crate's own is gone or after.
#[tokio::test]
async fn a_future_dropped_by_the_end_of_a_thread_is_cancelled() {
    thread_local! {
        // Gone in the reverse of the order of first use: the first after the crate's own, the last before.
        static FIRST: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
        static LAST: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
    }
    let monitor = by_path().spawn().unwrap();
    let layer = monitor.layer();
    let request = move || -> Option<Box<dyn Any>> {
        let never = service_fn(|_: Request<()>| pending::<Answer<Script>>());
        Some(Box::new(layer.layer(never).call(get("/drop/thread"))))
    };
    let thread = move || {
        FIRST.with(|_| ());
        let requests = (request(), request());
        FIRST.set(requests.0);
        LAST.set(requests.1);
    };
    std::thread::spawn(thread).join().unwrap();
    assert_eq!(in_flight(&monitor, "/drop/thread"), 0);
    assert_outcomes("/drop/thread", &[("cancelled", 2)]);
}

// === Complete without being polled to the end ===

/// A test that an answer is complete where its body is at its end already, though nobody polls it.
#[tokio::test]
async fn a_body_at_its_end_is_complete_unpolled() {
    let monitor = by_path().spawn().unwrap();
    let empty = Script { tells_end: true, ..Script::default() };
    drop(answer(&monitor, get("/end/empty"), Response::new(empty)));
    assert_outcomes("/end/empty", &[("2xx", 1)]);
}

/// A test that an answer is complete once its body says that the last frame was the last, though nobody polls it to `None`.
#[tokio::test]
async fn a_body_that_tells_its_end_is_complete_there() {
    let monitor = by_path().spawn().unwrap();
    let body = Script { tells_end: true, ..Script::new([Step::Data(3), Step::Data(3)]) };
    let mut body = answer(&monitor, get("/end/told"), Response::new(body)).into_body();
    assert!(poll_frame(&mut body).is_ready());
    assert_eq!(in_flight(&monitor, "/end/told"), 1);
    assert!(poll_frame(&mut body).is_ready());
    assert_eq!(in_flight(&monitor, "/end/told"), 0);
    drop(body);
    assert_outcomes("/end/told", &[("2xx", 1)]);
}

/// A test that of a body with trailers the polls past its last byte are measured, too.
#[tokio::test]
async fn a_body_with_trailers_is_not_over_before_them() {
    let monitor = by_path().spawn().unwrap();
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("trailer"), HeaderValue::from_static("x"))]);
    let body = Full::new(Bytes::from("abc")).with_trailers(ready(Some(Ok(trailers))));
    assert_eq!(body.size_hint().exact(), Some(3));
    let mut body = answer(&monitor, get("/end/trailers"), Response::new(body)).into_body();
    assert_eq!(poll_frame(&mut body), Poll::Ready(Some(Ok(3))));
    assert_eq!(in_flight(&monitor, "/end/trailers"), 1);
    assert_eq!(poll_frame(&mut body), Poll::Ready(Some(Ok(0))));
    assert_eq!(poll_frame(&mut body), Poll::Ready(None));
    assert_eq!(in_flight(&monitor, "/end/trailers"), 0);
    assert_eq!(stats(&monitor, "GET", "/end/trailers").unwrap().polls(), 2 + 3);
    assert_outcomes("/end/trailers", &[("2xx", 1)]);
}

/// A test that an answer with no body to send is complete: to `HEAD`, 1xx, 204 and 304.
#[tokio::test]
async fn an_answer_without_a_body_is_complete() {
    let monitor = by_path().spawn().unwrap();
    let unread = |status: u16| {
        let mut response = script([Step::Data(3)]);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
    };
    for (path, status, outcome) in
        [("/bodiless/103", 103, "1xx"), ("/bodiless/204", 204, "2xx"), ("/bodiless/304", 304, "3xx")]
    {
        drop(answer(&monitor, get(path), unread(status)));
        assert_outcomes(path, &[(outcome, 1)]);
    }
    let head = Request::head("/bodiless/head").body(()).unwrap();
    drop(answer(&monitor, head, unread(404)));
    assert_outcomes("/bodiless/head", &[("4xx", 1)]);
}

/// A test that an answer is complete once as many bytes came as its length says, though nobody polls it to `None`.
#[tokio::test]
async fn a_body_of_known_length_is_complete_with_its_last_byte() {
    let monitor = by_path().spawn().unwrap();
    let mut by_header = script([Step::Data(3), Step::Data(2), Step::Wait]);
    by_header.headers_mut().insert("content-length", "5".parse().unwrap());
    let by_hint = Script { tells_size: true, ..Script::new([Step::Data(3), Step::Data(2), Step::Wait]) };
    for (path, response) in [("/length/header", by_header), ("/length/hint", Response::new(by_hint))] {
        let mut body = answer(&monitor, get(path), response).into_body();
        assert!(poll_frame(&mut body).is_ready());
        assert!(poll_frame(&mut body).is_ready());
        drop(body);
        assert_outcomes(path, &[("2xx", 1)]);
    }
}

/// A test that an answer of known length is `cancelled` while bytes are missing.
#[tokio::test]
async fn a_body_of_known_length_is_cancelled_before_its_last_byte() {
    let monitor = by_path().spawn().unwrap();
    let mut response = script([Step::Data(3), Step::Data(2)]);
    response.headers_mut().insert("content-length", "5".parse().unwrap());
    let mut body = answer(&monitor, get("/length/short"), response).into_body();
    assert!(poll_frame(&mut body).is_ready());
    drop(body);
    assert_outcomes("/length/short", &[("cancelled", 1)]);
}

/// A test that an answer of length 0 is complete though its body does not know that it is at its end: hyper never polls it.
#[tokio::test]
async fn a_body_of_no_length_is_complete_unpolled() {
    let monitor = by_path().spawn().unwrap();
    let mut by_header = script([]);
    by_header.headers_mut().insert("content-length", "0".parse().unwrap());
    let by_hint = Script { tells_size: true, ..Script::default() };
    for (path, response) in [("/length/none/header", by_header), ("/length/none/hint", Response::new(by_hint))] {
        drop(answer(&monitor, get(path), response));
        assert_outcomes(path, &[("2xx", 1)]);
    }
}

// === Panics ===

/// A test that a panic in `Service::call` counts as `panicked`.
#[tokio::test]
async fn a_panic_in_the_call_is_panicked() {
    let monitor = by_path().spawn().unwrap();
    let no_future = || -> std::future::Ready<Answer<Script>> { panic!("in the call") };
    assert!(panics(|| drop(call(&monitor, get("/panic/call"), no_future))));
    assert_eq!(in_flight(&monitor, "/panic/call"), 0);
    assert_outcomes("/panic/call", &[("panicked", 1)]);
}

/// A test that a panic in the future counts as `panicked`, at its first poll or at a later one.
#[tokio::test]
async fn a_panic_in_the_future_is_panicked() {
    let monitor = by_path().spawn().unwrap();
    let work = || async {
        tokio::task::yield_now().await;
        if true {
            panic!("in the future");
        }
        Script::default().response()
    };
    let mut future = task::spawn(call(&monitor, get("/panic/future"), work));
    assert_pending!(future.poll());
    assert!(panics(|| drop(future.poll())));
    drop(future);
    assert_eq!(in_flight(&monitor, "/panic/future"), 0);
    assert_outcomes("/panic/future", &[("panicked", 1)]);
}

/// A test that a panic in the body counts as `panicked`.
#[tokio::test]
async fn a_panic_in_the_body_is_panicked() {
    let monitor = by_path().spawn().unwrap();
    let mut body = answer(&monitor, get("/panic/body"), script([Step::Data(3), Step::Panic])).into_body();
    assert!(poll_frame(&mut body).is_ready());
    assert!(panics(|| drop(poll_frame(&mut body))));
    drop(body);
    assert_eq!(in_flight(&monitor, "/panic/body"), 0);
    assert_outcomes("/panic/body", &[("panicked", 1)]);
}

/// A test that a request which is dropped because something else panicked is `cancelled`, and one that is polled meanwhile is not
/// `panicked` either.
#[tokio::test]
async fn somebody_elses_panic_is_not_the_requests() {
    struct Answers<'a>(&'a StallMonitor);
    impl Drop for Answers<'_> {
        fn drop(&mut self) {
            drop(answer(self.0, get("/panic/unwinding"), full("")));
            let mut waiting = task::spawn(call(self.0, get("/panic/unwinding"), pending::<Answer<Script>>));
            assert_pending!(waiting.poll());
        }
    }
    let monitor = by_path().spawn().unwrap();
    assert!(panics(|| {
        let _answers = Answers(&monitor);
        let _dropped = call(&monitor, get("/panic/unwinding"), pending::<Answer<Script>>);
        panic!("somebody else's");
    }));
    assert_outcomes("/panic/unwinding", &[("2xx", 1), ("cancelled", 2)]);
}

async fn panicking(_: Request<()>) -> Answer<Full<Bytes>> {
    panic!("in the handler")
}

/// A test that a panic which is caught outside the layer counts as `panicked`.
#[tokio::test]
async fn a_panic_caught_outside_is_panicked() {
    let monitor = by_path().spawn().unwrap();
    let service = CatchPanicLayer::new().layer(monitor.layer().layer(service_fn(panicking)));
    let response = service.oneshot(get("/panic/outside")).await.unwrap();
    assert_eq!(response.status(), 500);
    assert_outcomes("/panic/outside", &[("panicked", 1)]);
}

/// A test that a panic which is made an answer inside the layer counts as that answer.
#[tokio::test]
async fn a_panic_caught_inside_is_an_answer() {
    let monitor = by_path().spawn().unwrap();
    let service = monitor.layer().layer(CatchPanicLayer::new().layer(service_fn(panicking)));
    let response = service.oneshot(get("/panic/inside")).await.unwrap();
    assert_eq!(response.status(), 500);
    response.into_body().collect().await.unwrap();
    assert_outcomes("/panic/inside", &[("5xx", 1)]);
}

// === Timeouts ===

fn timeout() -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_millis(5))
}

async fn stuck(_: Request<()>) -> Answer<Full<Bytes>> {
    pending().await
}

/// A test that a timeout inside the layer counts as its answer.
#[tokio::test]
async fn a_timeout_inside_is_an_answer() {
    let monitor = by_path().spawn().unwrap();
    let service = monitor.layer().layer(timeout().layer(service_fn(stuck)));
    let response = service.oneshot(get("/timeout/inside")).await.unwrap();
    assert_eq!(response.status(), 408);
    drop(response);
    assert_outcomes("/timeout/inside", &[("4xx", 1)]);
}

/// A test that a timeout outside the layer counts as `cancelled`.
#[tokio::test]
async fn a_timeout_outside_is_cancelled() {
    let monitor = by_path().spawn().unwrap();
    // A router, as a timeout needs a body that has a default.
    let router = axum::Router::new().route("/timeout/outside", axum::routing::get(pending::<()>));
    let service = router.layer(monitor.layer()).layer(timeout());
    let request = get("/timeout/outside").map(|()| axum::body::Body::empty());
    assert_eq!(service.oneshot(request).await.unwrap().status(), 408);
    assert_outcomes("/timeout/outside", &[("cancelled", 1)]);
}

// === All together ===

/// A test that requests started are those that ended and those in flight, whatever became of them, in the scraped text too.
#[tokio::test]
async fn what_has_started_has_ended_or_is_in_flight() {
    let monitor = by_path().spawn().unwrap();
    let path = "/all";
    let waiting = call(&monitor, get(path), pending::<Answer<Script>>);
    let unread = answer(&monitor, get(path), script([Step::Data(3)]));
    drop(answer(&monitor, get(path), full("never polled")));
    drop(answer(&monitor, get(path), full("")));
    let failed = call(&monitor, get(path), || ready(Err::<Response<Script>, _>(()))).await;
    assert!(failed.is_err());
    let expected = [("2xx", 1), ("error", 1), ("cancelled", 1)];
    support::eventually("all are told of", || {
        let now = scrape();
        now.outcomes(path) == expected && now.in_flight(path) == 2
    });
    let stats = stats(&monitor, "GET", path).unwrap();
    assert_eq!((stats.requests(), stats.in_flight()), (5, 2));
    drop((waiting, unread));
    assert_outcomes(path, &[("2xx", 1), ("error", 1), ("cancelled", 3)]);
}
