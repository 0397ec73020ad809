//! Tests that each request is counted once, under its true outcome.
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

type Reply<R> = Result<Response<R>, Infallible>;
type Polled<E> = Poll<Option<Result<usize, E>>>;

/// Calls a measured service that does `work`.
fn call<R: Body, E, F: Future<Output = Result<Response<R>, E>>>(
    monitor: &StallMonitor,
    request: Request<()>,
    work: impl Fn() -> F,
) -> impl Future<Output = Result<Response<StallBody<R>>, E>> {
    monitor.layer().layer(service_fn(move |_| work())).call(request)
}

/// Returns the response of a measured service whose future is ready with `response`.
fn respond<R: Body>(
    monitor: &StallMonitor,
    request: Request<()>,
    response: Response<R>,
) -> Response<StallBody<R>> {
    let response = std::cell::Cell::new(Some(response));
    let mut future =
        task::spawn(call(monitor, request, || ready(Reply::Ok(response.take().unwrap()))));
    let Poll::Ready(Ok(response)) = future.poll() else { panic!("the future was not ready") };
    response
}

fn script(steps: impl IntoIterator<Item = Step>) -> Response<Script> {
    Response::new(Script::new(steps))
}

fn full(text: &'static str) -> Response<Full<Bytes>> {
    Response::new(text.into())
}

/// Polls a body once, and returns the size of the frame's data.
fn poll_frame<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Polled<B::Error> {
    let polled = task::spawn(body).enter(|cx, body| Pin::new(&mut **body.get_mut()).poll_frame(cx));
    polled.map_ok(|frame| frame.data_ref().map_or(0, Bytes::len))
}

fn panics(f: impl FnOnce()) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err()
}

/// Answers one request, after which the path has a row.
fn answer(monitor: &StallMonitor, path: &str) {
    let mut response = full("");
    *response.status_mut() = StatusCode::NO_CONTENT;
    drop(respond(monitor, get(path), response));
}

// === Statuses ===

/// A response that is read to its end counts once, under the class of its status, and is in flight
/// until then.
#[tokio::test]
async fn each_status_class_is_an_outcome() {
    let monitor = by_path().spawn().unwrap();
    for (path, status, outcome) in [
        ("/class/1", 101, "1xx"),
        ("/class/2", 200, "2xx"),
        ("/class/3", 301, "3xx"),
        ("/class/4", 403, "4xx"),
        ("/class/5", 503, "5xx"),
        ("/class/past", 799, "5xx"),
    ] {
        let mut response = script([Step::Wait, Step::Data(3)]);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        let response = respond(&monitor, get(path), response);
        let has_body = u64::from(status != 101);
        assert_eq!(in_flight(&monitor, path), has_body, "{path}");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "xxx");
        assert_eq!(in_flight(&monitor, path), 0, "{path}");
        assert_outcomes(path, &[(outcome, 1)]);
    }
}

#[tokio::test]
async fn a_service_error_is_an_error() {
    let monitor = by_path().spawn().unwrap();
    let failed =
        call(&monitor, get("/error/service"), || ready(Err::<Response<Script>, _>("no"))).await;
    assert_eq!(failed.unwrap_err(), "no");
    assert_eq!(in_flight(&monitor, "/error/service"), 0);
    assert_outcomes("/error/service", &[("error", 1)]);
}

/// The status of the response, 200, does not matter.
#[tokio::test]
async fn a_body_error_is_an_error() {
    let monitor = by_path().spawn().unwrap();
    let response =
        respond(&monitor, get("/error/body"), script([Step::Data(3), Step::Fail, Step::Data(3)]));
    let mut body = response.into_body();
    assert!(matches!(poll_frame(&mut body), Poll::Ready(Some(Ok(3)))));
    assert!(matches!(poll_frame(&mut body), Poll::Ready(Some(Err(_)))));
    assert_eq!(in_flight(&monitor, "/error/body"), 0);
    // Further polls change nothing.
    assert!(matches!(poll_frame(&mut body), Poll::Ready(Some(Ok(3)))));
    assert!(matches!(poll_frame(&mut body), Poll::Ready(None)));
    drop(body);
    assert_outcomes("/error/body", &[("error", 1)]);
}

// === Drops ===

/// It does not matter whether the future was polled.
#[tokio::test]
async fn a_dropped_future_is_cancelled() {
    let monitor = by_path().spawn().unwrap();
    answer(&monitor, "/drop/future");
    let never = || pending::<Reply<Script>>();
    let unpolled = call(&monitor, get("/drop/future"), never);
    let mut polled = task::spawn(call(&monitor, get("/drop/future"), never));
    assert_pending!(polled.poll());
    assert_eq!(in_flight(&monitor, "/drop/future"), 2);
    drop((unpolled, polled));
    assert_eq!(in_flight(&monitor, "/drop/future"), 0);
    assert_outcomes("/drop/future", &[("2xx", 1), ("cancelled", 2)]);
}

/// It does not matter whether the body was polled.
#[tokio::test]
async fn a_dropped_body_is_cancelled() {
    let monitor = by_path().spawn().unwrap();
    let response = || script([Step::Data(3), Step::Wait, Step::Data(3)]);
    let unpolled = respond(&monitor, get("/drop/body"), response());
    let mut polled = respond(&monitor, get("/drop/body"), response()).into_body();
    assert!(poll_frame(&mut polled).is_ready());
    assert!(poll_frame(&mut polled).is_pending());
    assert_eq!(in_flight(&monitor, "/drop/body"), 2);
    drop((unpolled, polled));
    assert_eq!(in_flight(&monitor, "/drop/body"), 0);
    assert_outcomes("/drop/body", &[("cancelled", 2)]);
}

#[tokio::test]
async fn a_future_dropped_on_another_thread_is_cancelled() {
    let monitor = by_path().spawn().unwrap();
    answer(&monitor, "/drop/elsewhere");
    let never = || pending::<Reply<Script>>();
    let mut future = Box::pin(task::spawn(call(&monitor, get("/drop/elsewhere"), never)));
    assert_pending!(future.poll());
    std::thread::scope(|scope| scope.spawn(move || assert_pending!(future.poll())).join().unwrap());
    let stats = stats(&monitor, "GET", "/drop/elsewhere").unwrap();
    assert_eq!((stats.requests(), stats.in_flight(), stats.polls()), (2, 0, 2 + 3));
    assert_outcomes("/drop/elsewhere", &[("2xx", 1), ("cancelled", 1)]);
}

/// The destructor may run before or after that of the crate's own thread-local state.
#[tokio::test]
async fn a_future_dropped_by_a_thread_local_destructor_is_cancelled() {
    thread_local! {
        // Destroyed in the reverse order of first use: the first after the crate's own state, the
        // last before it.
        static FIRST: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
        static LAST: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
    }
    let monitor = by_path().spawn().unwrap();
    answer(&monitor, "/drop/thread");
    let layer = monitor.layer();
    let request = move || -> Option<Box<dyn Any>> {
        let never = service_fn(|_: Request<()>| pending::<Reply<Script>>());
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
    assert_outcomes("/drop/thread", &[("2xx", 1), ("cancelled", 2)]);
}

// === Complete without a poll that returns `None` ===

#[tokio::test]
async fn a_body_that_is_at_its_end_is_complete_without_a_poll() {
    let monitor = by_path().spawn().unwrap();
    let empty = Script { reports_end: true, ..Script::default() };
    drop(respond(&monitor, get("/end/empty"), Response::new(empty)));
    assert_outcomes("/end/empty", &[("2xx", 1)]);
    // The header may announce more than the body has, for example if it was compressed.
    let empty = Script { reports_end: true, ..Script::default() };
    let mut response = Response::new(empty);
    response.headers_mut().insert("content-length", "5".parse().unwrap());
    drop(respond(&monitor, get("/end/header"), response));
    assert_outcomes("/end/header", &[("2xx", 1)]);
}

/// Such a body need not be polled until `None`.
#[tokio::test]
async fn a_body_is_complete_once_it_reports_its_end() {
    let monitor = by_path().spawn().unwrap();
    let body = Script { reports_end: true, ..Script::new([Step::Data(3), Step::Data(3)]) };
    let mut body = respond(&monitor, get("/end/reported"), Response::new(body)).into_body();
    assert!(poll_frame(&mut body).is_ready());
    assert_eq!(in_flight(&monitor, "/end/reported"), 1);
    assert!(poll_frame(&mut body).is_ready());
    assert_eq!(in_flight(&monitor, "/end/reported"), 0);
    drop(body);
    assert_outcomes("/end/reported", &[("2xx", 1)]);
}

/// The polls after the last byte are measured, too.
#[tokio::test]
async fn a_body_with_trailers_is_complete_after_the_trailers() {
    let monitor = by_path().spawn().unwrap();
    let trailers =
        HeaderMap::from_iter([(HeaderName::from_static("trailer"), HeaderValue::from_static("x"))]);
    let body = Full::new(Bytes::from("abc")).with_trailers(ready(Some(Ok(trailers))));
    assert_eq!(body.size_hint().exact(), Some(3));
    let mut body = respond(&monitor, get("/end/trailers"), Response::new(body)).into_body();
    assert_eq!(poll_frame(&mut body), Poll::Ready(Some(Ok(3))));
    assert_eq!(in_flight(&monitor, "/end/trailers"), 1);
    assert_eq!(poll_frame(&mut body), Poll::Ready(Some(Ok(0))));
    assert_eq!(poll_frame(&mut body), Poll::Ready(None));
    assert_eq!(in_flight(&monitor, "/end/trailers"), 0);
    assert_eq!(stats(&monitor, "GET", "/end/trailers").unwrap().polls(), 2 + 3);
    assert_outcomes("/end/trailers", &[("2xx", 1)]);
}

/// Responses to `HEAD`, and with the statuses 1xx, 204 and 304.
#[tokio::test]
async fn a_response_that_has_no_body_is_complete() {
    let monitor = by_path().spawn().unwrap();
    let unread = |status: u16| {
        let mut response = script([Step::Data(3)]);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
    };
    for (path, status, outcome) in [
        ("/bodiless/103", 103, "1xx"),
        ("/bodiless/204", 204, "2xx"),
        ("/bodiless/304", 304, "3xx"),
    ] {
        drop(respond(&monitor, get(path), unread(status)));
        assert_outcomes(path, &[(outcome, 1)]);
    }
    let head = Request::head("/bodiless/head").body(()).unwrap();
    drop(respond(&monitor, head, unread(403)));
    assert_outcomes("/bodiless/head", &[("4xx", 1)]);
}

/// Such a body need not be polled until `None`.
#[tokio::test]
async fn a_body_of_known_length_is_complete_at_its_last_byte() {
    let monitor = by_path().spawn().unwrap();
    let mut by_header = script([Step::Data(3), Step::Data(2), Step::Wait]);
    by_header.headers_mut().insert("content-length", "5".parse().unwrap());
    let by_hint =
        Script { reports_size: true, ..Script::new([Step::Data(3), Step::Data(2), Step::Wait]) };
    for (path, response) in
        [("/length/header", by_header), ("/length/hint", Response::new(by_hint))]
    {
        let mut body = respond(&monitor, get(path), response).into_body();
        assert!(poll_frame(&mut body).is_ready());
        assert!(poll_frame(&mut body).is_ready());
        drop(body);
        assert_outcomes(path, &[("2xx", 1)]);
    }
}

#[tokio::test]
async fn a_body_of_known_length_is_cancelled_before_its_last_byte() {
    let monitor = by_path().spawn().unwrap();
    let mut response = script([Step::Data(3), Step::Data(2)]);
    response.headers_mut().insert("content-length", "5".parse().unwrap());
    let mut body = respond(&monitor, get("/length/short"), response).into_body();
    assert!(poll_frame(&mut body).is_ready());
    drop(body);
    assert_outcomes("/length/short", &[("cancelled", 1)]);
}

/// hyper never polls such a body, even if `is_end_stream` is `false`.
#[tokio::test]
async fn a_body_of_length_zero_is_complete_without_a_poll() {
    let monitor = by_path().spawn().unwrap();
    let mut by_header = script([]);
    by_header.headers_mut().insert("content-length", "0".parse().unwrap());
    let by_hint = Script { reports_size: true, ..Script::default() };
    for (path, response) in
        [("/length/none/header", by_header), ("/length/none/hint", Response::new(by_hint))]
    {
        drop(respond(&monitor, get(path), response));
        assert_outcomes(path, &[("2xx", 1)]);
    }
}

// === Panics ===

#[tokio::test]
async fn a_panic_in_the_call_is_panicked() {
    let monitor = by_path().spawn().unwrap();
    let no_future = || -> std::future::Ready<Reply<Script>> { panic!("in the call") };
    assert!(panics(|| drop(call(&monitor, get("/panic/call"), no_future))));
    assert_eq!(in_flight(&monitor, "/panic/call"), 0);
    assert_outcomes("/panic/call", &[("panicked", 1)]);
}

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

#[tokio::test]
async fn a_panic_in_the_body_is_panicked() {
    let monitor = by_path().spawn().unwrap();
    let mut body =
        respond(&monitor, get("/panic/body"), script([Step::Data(3), Step::Panic])).into_body();
    assert!(poll_frame(&mut body).is_ready());
    assert!(panics(|| drop(poll_frame(&mut body))));
    drop(body);
    assert_eq!(in_flight(&monitor, "/panic/body"), 0);
    assert_outcomes("/panic/body", &[("panicked", 1)]);
}

/// A request that is dropped while another panic unwinds is `cancelled`, and one that is polled
/// then has the outcome it would have without the panic.
#[tokio::test]
async fn a_request_during_an_unrelated_panic_is_not_panicked() {
    struct RespondsOnDrop<'a>(&'a StallMonitor);
    impl Drop for RespondsOnDrop<'_> {
        fn drop(&mut self) {
            drop(respond(self.0, get("/panic/unwinding"), full("")));
            let mut waiting =
                task::spawn(call(self.0, get("/panic/unwinding"), pending::<Reply<Script>>));
            assert_pending!(waiting.poll());
        }
    }
    let monitor = by_path().spawn().unwrap();
    assert!(panics(|| {
        let _responds = RespondsOnDrop(&monitor);
        let _dropped = call(&monitor, get("/panic/unwinding"), pending::<Reply<Script>>);
        panic!("unrelated");
    }));
    assert_outcomes("/panic/unwinding", &[("2xx", 1), ("cancelled", 2)]);
}

async fn panicking(_: Request<()>) -> Reply<Full<Bytes>> {
    panic!("in the handler")
}

#[tokio::test]
async fn a_panic_caught_outside_the_layer_is_panicked() {
    let monitor = by_path().spawn().unwrap();
    let service = CatchPanicLayer::new().layer(monitor.layer().layer(service_fn(panicking)));
    let response = service.oneshot(get("/panic/outside")).await.unwrap();
    assert_eq!(response.status(), 500);
    assert_outcomes("/panic/outside", &[("panicked", 1)]);
}

#[tokio::test]
async fn a_panic_turned_into_a_response_inside_the_layer_has_its_status() {
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

async fn stuck(_: Request<()>) -> Reply<Full<Bytes>> {
    pending().await
}

#[tokio::test]
async fn a_timeout_inside_the_layer_has_its_status() {
    let monitor = by_path().spawn().unwrap();
    let service = monitor.layer().layer(timeout().layer(service_fn(stuck)));
    let response = service.oneshot(get("/timeout/inside")).await.unwrap();
    assert_eq!(response.status(), 408);
    drop(response);
    assert_outcomes("/timeout/inside", &[("4xx", 1)]);
}

#[tokio::test]
async fn a_timeout_outside_the_layer_is_cancelled() {
    let monitor = by_path().spawn().unwrap();
    // A router, because the timeout layer needs a body type that implements `Default`.
    let router = axum::Router::new().route("/timeout/outside", axum::routing::get(pending::<()>));
    let service = router.layer(monitor.layer()).layer(timeout());
    let request = get("/timeout/outside").map(|()| axum::body::Body::empty());
    assert_eq!(service.oneshot(request).await.unwrap().status(), 408);
    assert_outcomes("unmatched", &[("cancelled", 1)]);
}

// === All together ===

/// This holds in the scraped text, too.
#[tokio::test]
async fn started_equals_ended_plus_in_flight() {
    let monitor = by_path().spawn().unwrap();
    let path = "/all";
    let waiting = call(&monitor, get(path), pending::<Reply<Script>>);
    let unread = respond(&monitor, get(path), script([Step::Data(3)]));
    drop(respond(&monitor, get(path), full("never polled")));
    drop(respond(&monitor, get(path), full("")));
    let failed = call(&monitor, get(path), || ready(Err::<Response<Script>, _>(()))).await;
    assert!(failed.is_err());
    let expected = [("2xx", 1), ("error", 1), ("cancelled", 1)];
    support::eventually("all are in the text", || {
        let now = scrape();
        now.outcomes(path) == expected && now.in_flight(path) == 2
    });
    let stats = stats(&monitor, "GET", path).unwrap();
    assert_eq!((stats.requests(), stats.in_flight()), (5, 2));
    drop((waiting, unread));
    assert_outcomes(path, &[("2xx", 1), ("error", 1), ("cancelled", 3)]);
}
