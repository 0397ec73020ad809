//! Tests of which route a request is counted under.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(all(feature = "axum", feature = "prometheus"))]

mod support;

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::{Ready, ready};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::handler::Handler;
use axum::routing::{any, get, post};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use support::{builder, by_path, eventually, scrape};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_stall::{RouteRequest, StallMonitor};

fn monitor() -> StallMonitor {
    builder().spawn().unwrap()
}

/// Sends a request to a router and reads the response.
async fn send(router: &Router, method: &str, path: &str) -> StatusCode {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    exchange(router, request).await
}

/// Sends a request to a service and reads the response.
async fn exchange<S, B, R>(service: &S, request: Request<B>) -> StatusCode
where
    S: Service<Request<B>, Response = Response<R>, Error: Debug> + Clone,
    R: HttpBody<Error: Debug>,
{
    let response = service.clone().oneshot(request).await.unwrap();
    let status = response.status();
    response.into_body().collect().await.unwrap();
    status
}

/// Returns method, route and requests of each route, none of which may be in flight.
fn counted(monitor: &StallMonitor) -> Vec<(String, String, u64)> {
    let routes = monitor.routes();
    assert!(routes.iter().all(|stats| stats.in_flight() == 0), "{routes:?}");
    routes
        .iter()
        .map(|stats| (stats.method().into(), stats.route().into(), stats.requests()))
        .collect()
}

#[track_caller]
fn assert_counted(monitor: &StallMonitor, expected: &[(&str, &str, u64)]) {
    let counted = counted(monitor);
    let counted: Vec<_> =
        counted.iter().map(|(method, route, count)| (&**method, &**route, *count)).collect();
    assert_eq!(counted, expected);
}

/// Responds to any request.
fn respond<B>(_: Request<B>) -> Ready<Result<Response<Body>, Infallible>> {
    ready(Ok(Response::new(Body::from("response"))))
}

// === axum ===

/// Requests that matched no pattern, or whose method the route does not have, are `unmatched`.
#[tokio::test]
async fn a_router_layer_counts_by_matched_pattern() {
    let monitor = monitor();
    let router = Router::new()
        .route("/users/{id}", get(|| async { "user" }).post(|| async { "made" }))
        .route("/files/{*path}", get(|| async { "file" }))
        .layer(monitor.layer());
    assert_eq!(send(&router, "GET", "/users/1").await, 200);
    assert_eq!(send(&router, "GET", "/users/2?q=3").await, 200);
    assert_eq!(send(&router, "POST", "/users/1").await, 200);
    assert_eq!(send(&router, "HEAD", "/users/1").await, 200);
    assert_eq!(send(&router, "DELETE", "/users/1").await, 405);
    assert_eq!(send(&router, "GET", "/files/a/b").await, 200);
    assert_eq!(send(&router, "GET", "/nothing/here").await, 404);
    // The predefined routes are first, the others follow in the order of their first request.
    assert_counted(
        &monitor,
        &[
            ("GET", "unmatched", 1),
            ("DELETE", "unmatched", 1),
            ("GET", "/users/{id}", 2),
            ("POST", "/users/{id}", 1),
            ("HEAD", "/users/{id}", 1),
            ("GET", "/files/{*path}", 1),
        ],
    );
}

/// Whatever a client sends, it makes no row and takes no place that a route then lacks.
#[tokio::test]
async fn requests_that_no_route_answers_make_no_row() {
    const ROUTES: usize = 60;
    const OTHER_METHODS: [&str; 9] =
        ["POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "BREW", "PROPFIND"];
    let monitor = builder().max_routes(ROUTES).spawn().unwrap();
    let path = |route: usize| format!("/route/{route}");
    let router = (0..ROUTES)
        .fold(Router::new(), |router, route| router.route(&path(route), get(|| async {})));
    let router = router.layer(monitor.layer());
    for route in 0..ROUTES {
        for method in OTHER_METHODS {
            assert_eq!(send(&router, method, &path(route)).await, 405);
        }
        assert_eq!(send(&router, "GET", &format!("/secret/{route}")).await, 404);
    }
    assert!(counted(&monitor).iter().all(|(_, route, _)| route == "unmatched"));
    // More pairs than can wait for an answer: the first request of each route is `unmatched`, too.
    for route in (0..ROUTES).flat_map(|route| [route; 2]) {
        assert_eq!(send(&router, "GET", &path(route)).await, 200);
    }
    let counted = counted(&monitor);
    let (unmatched, routes): (Vec<_>, Vec<_>) =
        counted.iter().partition(|(_, route, _)| route == "unmatched");
    let requests: u64 = unmatched.iter().map(|(_, _, requests)| requests).sum();
    assert_eq!(requests as usize, ROUTES * (OTHER_METHODS.len() + 2));
    assert_eq!(routes.len(), ROUTES, "{routes:?}");
    assert!(routes.iter().all(|(method, _, count)| method == "GET" && *count == 1), "{routes:?}");
}

/// A handler may answer 404 as well, and a gRPC server answers in the name of methods it lacks.
#[tokio::test]
async fn a_row_begins_with_the_first_answer_that_only_a_route_gives() {
    let monitor = builder().route_label(|request| Some(request.uri().path().to_owned().into()));
    let monitor = monitor.spawn().unwrap();
    let answer = |request: Request<Body>| {
        let (status, grpc_status) = match request.uri().query() {
            Some("missing") => (404, "0"),
            Some("unimplemented") => (200, "12"),
            Some("failed") => (500, "0"),
            _ => (200, "0"),
        };
        let response = Response::builder().status(status).header("grpc-status", grpc_status);
        ready(Ok::<_, Infallible>(response.body(Body::from("answer")).unwrap()))
    };
    let service = monitor.layer().layer(service_fn(answer));
    for uri in ["/a?missing", "/b?unimplemented", "/c?failed", "/d?missing", "/d", "/d?missing"] {
        exchange(&service, Request::get(uri).body(Body::empty()).unwrap()).await;
    }
    let expected = [("GET", "unmatched", 2), ("GET", "/c", 1), ("GET", "/d", 3)];
    assert_counted(&monitor, &expected);
}

/// The route of a request that is lost is known by its code, too.
#[tokio::test]
async fn a_row_begins_with_an_error_or_a_panic() {
    let monitor = builder().route_label(|request| Some(request.uri().path().to_owned().into()));
    let monitor = monitor.spawn().unwrap();
    let fail = |request: Request<Body>| async move {
        assert_ne!(request.uri().path(), "/panics", "as the test wants");
        Err::<Response<Body>, _>(std::io::Error::other("as the test wants"))
    };
    let service = monitor.layer().layer(service_fn(fail));
    for path in ["/fails", "/panics"] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let service = service.clone();
        let task = tokio::spawn(async move { service.oneshot(request).await.is_err() });
        assert_eq!(task.await.is_err(), path == "/panics");
    }
    assert_counted(&monitor, &[("GET", "/fails", 1), ("GET", "/panics", 1)]);
}

#[tokio::test]
async fn a_route_layer_counts_only_what_matched() {
    let monitor = monitor();
    let router = Router::new().route("/a/{id}", get(|| async {})).route_layer(monitor.layer());
    let router = router.route("/b/{id}", get(|| async {}));
    send(&router, "GET", "/a/1").await;
    send(&router, "GET", "/b/1").await;
    assert_eq!(send(&router, "GET", "/nothing").await, 404);
    assert_counted(&monitor, &[("GET", "/a/{id}", 1)]);
}

/// A layer around a route's methods, or around one handler, measures only those.
#[tokio::test]
async fn layers_of_methods_and_handlers_count_by_matched_pattern() {
    let monitor = monitor();
    let one = get(|| async {}).layer(monitor.layer()).post(|| async {});
    let handler = (|| async {}).layer(monitor.layer());
    let router = Router::new().route("/methods/{id}", one).route("/handler/{id}", post(handler));
    send(&router, "GET", "/methods/1").await;
    send(&router, "POST", "/methods/1").await;
    send(&router, "POST", "/handler/1").await;
    assert_counted(&monitor, &[("GET", "/methods/{id}", 1), ("POST", "/handler/{id}", 1)]);
}

/// The pattern does not depend on the place of the layer.
#[tokio::test]
async fn nested_and_merged_routers_count_by_the_full_pattern() {
    let (outside, inside) = (monitor(), monitor());
    let users = Router::new().route("/users/{id}", get(|| async {})).layer(inside.layer());
    let merged = Router::new().route("/merged/{id}", get(|| async {}));
    let router = Router::new().nest("/api/{version}", users).merge(merged).layer(outside.layer());
    send(&router, "GET", "/api/1/users/2").await;
    send(&router, "GET", "/merged/1").await;
    assert_eq!(send(&router, "GET", "/api/1/nothing").await, 404);
    assert_counted(&inside, &[("GET", "/api/{version}/users/{id}", 1)]);
    let expected = [
        ("GET", "unmatched", 1),
        ("GET", "/api/{version}/users/{id}", 1),
        ("GET", "/merged/{id}", 1),
    ];
    assert_counted(&outside, &expected);
}

/// axum sets no `MatchedPath` for it, and its raw paths must not become labels.
#[tokio::test]
async fn a_nested_service_is_unmatched() {
    let monitor = monitor();
    let router =
        Router::new().nest_service("/static", service_fn(respond::<Body>)).layer(monitor.layer());
    assert_eq!(send(&router, "GET", "/static/secret").await, 200);
    assert_counted(&monitor, &[("GET", "unmatched", 1)]);
}

/// The way out that the guide shows.
#[tokio::test]
async fn route_label_names_a_nested_service() {
    let is_static = |request: &RouteRequest<'_>| request.uri().path().starts_with("/static/");
    let monitor = builder()
        .route_label(move |request| is_static(request).then(|| "/static".into()))
        .spawn()
        .unwrap();
    let nested = Router::new().route("/{file}", get(|| async {}));
    let router =
        Router::new().nest_service("/static", nested).fallback(|| async {}).layer(monitor.layer());
    assert_eq!(send(&router, "GET", "/static/secret").await, 200);
    assert_eq!(send(&router, "GET", "/other").await, 200);
    assert_counted(&monitor, &[("GET", "unmatched", 1), ("GET", "/static", 1)]);
}

#[tokio::test]
async fn a_route_that_is_added_after_the_layer_is_not_measured() {
    let monitor = monitor();
    let router = Router::new()
        .route("/measured", get(|| async {}))
        .layer(monitor.layer())
        .route("/healthz", get(|| async {}));
    for path in ["/measured", "/healthz"] {
        assert_eq!(send(&router, "GET", path).await, 200);
    }
    assert_counted(&monitor, &[("GET", "/measured", 1)]);
}

/// The fallback may be a handler of the application.
#[tokio::test]
async fn a_fallback_is_unmatched() {
    let monitor = monitor();
    let router =
        Router::new().fallback(|uri: Uri| async move { uri.to_string() }).layer(monitor.layer());
    assert_eq!(send(&router, "GET", "/token/12345").await, 200);
    assert_counted(&monitor, &[("GET", "unmatched", 1)]);
}

/// No route has been matched there yet.
#[tokio::test]
async fn a_layer_around_a_router_is_unmatched() {
    let monitor = monitor();
    let router = Router::new().route("/around/{id}", get(|| async {}));
    let service = ServiceBuilder::new().layer(monitor.layer()).service(router);
    let request = Request::get("/around/1").body(Body::empty()).unwrap();
    exchange(&service, request).await;
    assert_counted(&monitor, &[("GET", "unmatched", 1)]);
}

#[tokio::test]
async fn raw_paths_and_queries_are_never_labels() {
    let monitor = monitor();
    let router = Router::new()
        .route("/raw/{id}", get(|| async {}))
        .nest_service("/raw_nested", service_fn(respond::<Body>))
        .layer(monitor.layer());
    for path in ["/raw/needle", "/needle", "/raw/1?needle", "/raw/1/needle", "/raw_nested/needle"] {
        send(&router, "GET", path).await;
    }
    let requests = |route| scrape().sum("tower_stall_requests_total", &[("route", route)]);
    eventually("all are counted", || requests("/raw/{id}") == 2.0 && requests("unmatched") >= 3.0);
    scrape().assert_lacks("needle");
}

// === `route_label` ===

/// It is `unmatched` where the closure returns `None`, and without a closure.
#[tokio::test]
async fn a_plain_service_uses_route_label() {
    let label = |request: &RouteRequest<'_>| {
        let path = request.uri().path();
        (path != "/none").then(|| format!("{} {}", request.method(), path.len()).into())
    };
    let labeled = builder().route_label(label).spawn().unwrap();
    let plain = monitor();
    for monitor in [&labeled, &plain] {
        let service = monitor.layer().layer(service_fn(respond::<()>));
        for path in ["/none", "/12345"] {
            exchange(&service, support::get(path)).await;
        }
    }
    assert_counted(&labeled, &[("GET", "unmatched", 1), ("GET", "GET 6", 1)]);
    assert_counted(&plain, &[("GET", "unmatched", 2)]);
}

#[tokio::test]
async fn a_matched_path_takes_precedence_over_route_label() {
    let monitor = builder().route_label(|_| Some("label".into())).spawn().unwrap();
    let router = Router::new()
        .route("/matched/{id}", get(|| async {}))
        .fallback(|| async {})
        .layer(monitor.layer());
    send(&router, "GET", "/matched/1").await;
    send(&router, "GET", "/nothing").await;
    assert_counted(&monitor, &[("GET", "/matched/{id}", 1), ("GET", "label", 1)]);
}

#[tokio::test]
async fn route_label_first_takes_precedence_over_a_matched_path() {
    let label = |request: &RouteRequest<'_>| {
        let is_probe = request.headers().contains_key("x-probe");
        let is_marked = request.extensions().get::<Marked>().is_some();
        (is_probe || is_marked).then(|| "label".into())
    };
    let monitor = builder().route_label(label).route_label_first(true).spawn().unwrap();
    let router = Router::new().route("/matched/{id}", get(|| async {})).layer(monitor.layer());
    let request = || Request::get("/matched/1");
    for request in
        [request(), request().header("x-probe", "1"), request().extension(Marked), request()]
    {
        exchange(&router, request.body(Body::empty()).unwrap()).await;
    }
    assert_counted(&monitor, &[("GET", "/matched/{id}", 2), ("GET", "label", 2)]);
}

#[derive(Clone)]
struct Marked;

/// Clients cannot create labels.
#[tokio::test]
async fn an_unknown_method_is_other() {
    let monitor = monitor();
    let router = Router::new().route("/pot", any(|| async {})).layer(monitor.layer());
    send(&router, "BREW", "/pot").await;
    send(&router, "get", "/pot").await;
    send(&router, "PATCH", "/pot").await;
    assert_counted(&monitor, &[("OTHER", "/pot", 2), ("PATCH", "/pot", 1)]);
    eventually("they are counted", || {
        scrape().has("tower_stall_requests_total", &[("route", "/pot")])
    });
    scrape().assert_lacks("BREW");
}

#[tokio::test]
async fn a_request_with_the_method_task_is_not_a_task() {
    let monitor = monitor();
    let router = Router::new().route("/work", any(|| async {})).layer(monitor.layer());
    send(&router, "TASK", "/work").await;
    assert_counted(&monitor, &[("OTHER", "/work", 1)]);
}

/// Routes past `max_routes` share `overflow`, those before stay separate, and each request that
/// overflowed is counted.
#[tokio::test]
async fn routes_past_the_cap_overflow() {
    let monitor = by_path().max_routes(2).spawn().unwrap();
    let service = monitor.layer().layer(service_fn(respond::<()>));
    for path in ["/cap/a", "/cap/b", "/cap/c", "/cap/d", "/cap/c", "/cap/a"] {
        exchange(&service, support::get(path)).await;
    }
    assert_counted(&monitor, &[("GET", "overflow", 3), ("GET", "/cap/a", 2), ("GET", "/cap/b", 1)]);
    // No other test here overflows.
    let overflowed = || scrape().sum("tower_stall_routes_overflowed_total", &[]);
    eventually("the overflow is counted", || overflowed() >= 3.0);
    assert_eq!(overflowed(), 3.0);
    scrape().assert_lacks("/cap/c");
}

/// Characters that would break the text format are replaced, and long labels are truncated.
#[tokio::test]
async fn labels_are_sanitized() {
    let label = |request: &RouteRequest<'_>| match request.uri().path() {
        "/long" => Some("ü".repeat(1_000).into()),
        _ => Some("weird\n\"label\\with\u{7}all, {of}=it".into()),
    };
    let monitor = builder().route_label(label).spawn().unwrap();
    let service = monitor.layer().layer(service_fn(respond::<()>));
    for path in ["/weird", "/long"] {
        exchange(&service, support::get(path)).await;
    }
    let (weird, long) = ("weird__label_with_all, {of}=it", "ü".repeat(128));
    assert_counted(&monitor, &[("GET", weird, 1), ("GET", &long, 1)]);
    for route in [weird, &long] {
        support::assert_outcomes(route, &[("2xx", 1)]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn labels_equal_after_truncation_take_no_memory_each() {
    // What the tests beside it allocate does not count.
    support::in_own_process(|| {
        support::current_thread_runtime().block_on(check_memory_of_equal_labels());
    });
}

#[cfg(target_os = "linux")]
async fn check_memory_of_equal_labels() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    const REQUESTS: usize = 20_000;
    const MIB: usize = 1 << 20;
    let served = AtomicUsize::new(0);
    let label = move |_: &RouteRequest<'_>| {
        Some(format!("{:04096}{}", 0, served.fetch_add(1, Ordering::Relaxed)).into())
    };
    let monitor = builder().route_label(label).spawn().unwrap();
    let mut service = monitor.layer().layer(service_fn(respond::<()>));
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let before = resident();
    for _ in 0..REQUESTS {
        drop(service.call(support::get("/")).await.unwrap().into_body().collect().await.unwrap());
    }
    assert_counted(&monitor, &[("GET", &"0".repeat(256), REQUESTS as u64)]);
    let grown = resident().saturating_sub(before) / MIB;
    assert!(grown < 32, "{grown} MiB for {REQUESTS} labels of 4 KiB");
}

// === More than one layer ===

/// The polls are counted once, too.
#[tokio::test]
async fn several_layers_of_one_monitor_count_once() {
    let count = |layers: usize| async move {
        let monitor = monitor();
        let handler = || async {
            tokio::task::yield_now().await;
            "response"
        };
        let mut methods = get(handler);
        if layers > 2 {
            methods = methods.layer(monitor.layer());
        }
        let mut router = Router::new().route("/several/{id}", methods);
        if layers > 1 {
            router = router.route_layer(monitor.layer());
        }
        let router = router.layer(monitor.layer());
        assert_eq!(send(&router, "GET", "/several/1").await, 200);
        let routes = monitor.routes();
        assert_eq!(routes.len(), 1, "{routes:?}");
        (routes[0].requests(), routes[0].in_flight(), routes[0].polls())
    };
    let one = count(1).await;
    assert_eq!((one.0, one.1), (1, 0));
    assert_eq!(count(2).await, one);
    assert_eq!(count(3).await, one);
}

/// The thread may just have served a request through both layers.
#[tokio::test]
async fn an_inner_layer_measures_requests_that_bypass_the_outer_one() {
    let monitor = by_path().spawn().unwrap();
    let inner = monitor.layer().layer(service_fn(respond::<()>));
    let outer = monitor.layer().layer(inner.clone());
    for _ in 0..3 {
        exchange(&outer, support::get("/way/outer")).await;
        exchange(&inner, support::get("/way/inner")).await;
    }
    assert_counted(&monitor, &[("GET", "/way/outer", 3), ("GET", "/way/inner", 3)]);
}

/// A scrape shows their sum.
#[tokio::test]
async fn two_monitors_each_count_a_request() {
    let (first, second) = (monitor(), monitor());
    let router =
        Router::new().route("/both", get(|| async {})).layer(first.layer()).layer(second.layer());
    send(&router, "GET", "/both").await;
    assert_counted(&first, &[("GET", "/both", 1)]);
    assert_counted(&second, &[("GET", "/both", 1)]);
    support::assert_outcomes("/both", &[("2xx", 2)]);
}
